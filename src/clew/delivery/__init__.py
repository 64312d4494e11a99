"""What carries metrics, spans and log records to exporters: in threads of its own, within deadlines, losses counted."""

from clew.delivery.batch_processors import LogBatchProcessor, SpanBatchProcessor
from clew.delivery.destination import UndeliveredError, lost
from clew.delivery.metric_reader import PeriodicReader
from clew.delivery.senders import Sender, deliver

__all__ = [
    "LogBatchProcessor",
    "PeriodicReader",
    "Sender",
    "SpanBatchProcessor",
    "UndeliveredError",
    "deliver",
    "lost",
]
