"""What a test sees of what the application records: the fixture `telemetry` of the pytest plugin is one of these.

>>> def test_checkout(telemetry):
...     checkout(["tea"])
...     assert telemetry.calls("checkout").count == 1
"""

from clew.testing.calls import Call, Calls
from clew.testing.capture import capture
from clew.testing.measurements import Measurements, Point
from clew.testing.requests import CapturedRequest, LogLine
from clew.testing.telemetry import CapturedTelemetry

__all__ = [
    "Call",
    "Calls",
    "CapturedRequest",
    "CapturedTelemetry",
    "LogLine",
    "Measurements",
    "Point",
    "capture",
]
