"""What a collection takes of one series: what has been recorded since the last one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import attrgetter

from clew.metrics.exemplars import ExemplarCandidate

_BY_BUCKET = attrgetter("bucket")


class Delta:
    """What the shards of a series hold together, and what has been added since the last collection.

    Attributes:
        counts: Of each bucket, since the series was made; None where nothing was counted, and then the next three are
            not there.
        seen_counts: What they were at the last collection.
        total: The sum, since the series was made.
        seen_total: What it was at the last collection.
        min: The least value since the last collection.
        max: The greatest value since then.
        candidates: The best ones since then, one a bucket, in the order of the buckets.
    """

    __slots__ = ("_added", "candidates", "counts", "max", "min", "seen_counts", "seen_total", "total")

    seen_counts: list[int]
    total: float
    seen_total: float

    def __init__(self) -> None:
        self.counts: list[int] | None = None
        self.min: float = math.inf
        self.max: float = -math.inf
        self.candidates: Sequence[ExemplarCandidate] = ()
        self._added: list[int] | None = None

    def add_candidates(self, candidates: Sequence[ExemplarCandidate]) -> None:
        """Add the candidates of one more interval, where they are the best of their buckets."""
        if self.candidates:
            self.candidates = best_of_each_bucket([*self.candidates, *candidates])
        else:
            self.candidates = candidates if len(candidates) == 1 else sorted(candidates, key=_BY_BUCKET)

    @property
    def is_all(self) -> bool:
        """Whether this is all that the series has ever recorded."""
        return self.counts is not None and not any(self.seen_counts)

    @property
    def added(self) -> list[int]:
        """How much the counts have risen since the last collection."""
        if self._added is None:
            assert self.counts is not None
            self._added = [now - before for now, before in zip(self.counts, self.seen_counts, strict=True)]
        return self._added


def best_of_each_bucket(
    candidates: Iterable[ExemplarCandidate], bucket_of: Sequence[int] | None = None
) -> Sequence[ExemplarCandidate]:
    """Return the candidates that outrank all others of their bucket, in the order of the buckets.

    Args:
        candidates: Each with the bucket of the shard that it was in.
        bucket_of: Which bucket each bucket of a shard is a part of; None where they are the same.
    """
    best: dict[int, ExemplarCandidate] = {}
    for candidate in candidates:
        bucket = candidate.bucket if bucket_of is None else bucket_of[candidate.bucket]
        if candidate.outranks(best.get(bucket)):
            best[bucket] = candidate
    return [best[bucket] for bucket in sorted(best)]
