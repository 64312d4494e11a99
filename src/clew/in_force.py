"""What `clew.configure()` has set in the process, to be put back when something has stood in its place."""

from __future__ import annotations

from opentelemetry import propagate

from clew.logs import tracking
from clew.logs_bridge import handler
from clew.operations import pipeline
from clew.policy import policy


class InForce:
    """The pipeline, the tracking of requests, the policy, the handler of log records and the propagator of a moment."""

    def __init__(self) -> None:
        self._pipeline = pipeline.current
        self._tracking = tracking.current
        self._policy = policy.snapshot()
        self._has_handler = handler.installed() is not None
        self._propagator = propagate.get_global_textmap()

    def restore(self, *, is_over: bool) -> None:
        """Put everything back; where `is_over`, what measured then has been shut down meanwhile, and nothing measures.

        A handler that was installed then is still the one that is installed.
        """
        pipeline.use(None if is_over else self._pipeline)
        if pipeline.current is not None:
            pipeline.current.is_open = True
        tracking.exchange(None if is_over else self._tracking)
        if is_over or not self._has_handler:
            handler.uninstall()
        propagate.set_global_textmap(self._propagator)
        policy.restore(self._policy)
