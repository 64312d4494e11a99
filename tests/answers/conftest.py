"""A store with hand-made telemetry in it, and the command line to ask with."""

from __future__ import annotations

from local.conftest import clew, collector, exports, now, start_collector, stored  # noqa: F401 - fixtures
