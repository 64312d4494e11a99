"""The command line, and a store that it can be asked of."""

from __future__ import annotations

from local.conftest import clew, exports, now, stored  # noqa: F401 - fixtures
