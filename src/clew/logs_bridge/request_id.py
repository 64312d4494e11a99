"""The request ID of a log record, and the filter that sets it for the formats of the application's own handlers.

What OpenTelemetry's log records get is the same, in `handler.py` where they come from `logging`, and in
`request_id_processor.py` where they come from anywhere else.
"""

from __future__ import annotations

import logging

from clew.policy import policy
from clew.propagation.cell import request_id
from clew.propagation.ids import remembered_request_id

NONE = "-"
"""What stands for a request ID outside a request, in the application's own formats."""


def request_id_now(error: BaseException | None) -> str | None:
    """Return the ID of the current request, or else of the one that `error` has left, or None.

    Servers log the traceback of a failed request when it is over.
    """
    return request_id() or remembered_request_id(error)


def request_id_of(record: logging.LogRecord) -> str | None:
    """Return the ID of the request that a record belongs to: the one that somebody has set on it counts first."""
    own = record.__dict__.get(policy.attribute)
    if isinstance(own, str) and own != NONE:
        return own
    return request_id_now(record.exc_info[1] if isinstance(record.exc_info, tuple) else None)


class RequestIdFilter(logging.Filter):
    """Sets ``request_id`` on each record that has none, ``-`` outside a request, for the formats of a handler.

    It goes on handlers (a filter on a logger sees no records of the loggers below), on a `QueueHandler` rather than on
    what listens to the queue. It lets every record pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attribute and return True."""
        fields, name = record.__dict__, policy.attribute  # quicker than by getattr, and this is for every record
        if name not in fields:
            fields[name] = request_id_of(record) or NONE
        return True
