"""See what a Python system does, and walk from a number to the very requests behind it.

>>> import clew
>>> telemetry = clew.configure()  # doctest: +SKIP
>>> @clew.measure("checkout")
... def checkout(cart):
...     return len(cart)
"""

from typing import TYPE_CHECKING

from clew.__about__ import __version__
from clew._measure import measure
from clew._request import request
from clew.instruments import counter, gauge, histogram, up_down_counter
from clew.propagation.cell import request_id
from clew.providers import adoption

if TYPE_CHECKING:
    from clew.metrics.views import exemplar_filter, views
    from clew.telemetry import ConfigurationError, Telemetry, configure

__all__ = [
    "ConfigurationError",
    "Telemetry",
    "__version__",
    "configure",
    "counter",
    "exemplar_filter",
    "gauge",
    "histogram",
    "measure",
    "request",
    "request_id",
    "up_down_counter",
    "views",
]

adoption.watch()


def __getattr__(name: str) -> object:
    """Import what only a provider needs when it is asked for, so that importing `clew` stays quick."""
    if name in ("ConfigurationError", "Telemetry", "configure"):
        from clew import telemetry

        return getattr(telemetry, name)
    if name in ("exemplar_filter", "views"):
        from clew.metrics import views

        return getattr(views, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
