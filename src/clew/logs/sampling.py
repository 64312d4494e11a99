"""The sample of all requests whose log records are kept whatever happens: ``CLEW_LOGS_SAMPLE_RATIO``.

Every service comes to the same answer for a request, without asking another one.
"""

from __future__ import annotations

import hashlib


def is_sampled(request_id: str, ratio: float) -> bool:
    """Tell whether a request is in the sample, which a larger ratio only adds to.

    The first 8 bytes of the SHA-256 of the ID, as a whole number with the most significant byte first, divided by
    2**64, are less than the ratio.
    """
    if ratio <= 0 or ratio >= 1:
        return ratio >= 1
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") < ratio * 2.0**64
