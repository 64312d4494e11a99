"""What carries metrics, spans and log records to exporters: in its own threads, within deadlines, losses counted."""

from clew.delivery.batches import LogBatches, SpanBatches
from clew.delivery.deliver import Part, deliver
from clew.delivery.destination import UndeliveredError, lost
from clew.delivery.reader import PeriodicReader

__all__ = [
    "LogBatches",
    "Part",
    "PeriodicReader",
    "SpanBatches",
    "UndeliveredError",
    "deliver",
    "lost",
]
