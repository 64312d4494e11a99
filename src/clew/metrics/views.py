"""Views that put request IDs on the exemplars of every instrument of a MeterProvider, the application's own included.

MeterProvider(views=clew.views(*mine), exemplar_filter=clew.exemplar_filter(), …)
"""

from __future__ import annotations

from opentelemetry.sdk.metrics import ExemplarFilter
from opentelemetry.sdk.metrics.view import View

from clew.metrics.exemplars import RequestExemplarFilter
from clew.metrics.sdk.views import EveryOtherInstrument, with_reservoirs


def exemplar_filter() -> ExemplarFilter:
    """Return the filter that keeps exemplars where there is a request ID or a sampled span.

    For an application that builds its own MeterProvider; `clew.configure()` uses it by itself.
    """
    return RequestExemplarFilter()


def views(*mine: View) -> list[View]:
    """Return the Views for a MeterProvider whose exemplars carry request IDs.

    Args:
        mine: The application's own Views. They keep their meaning and their number of streams; one that names an
            exemplar reservoir of its own keeps that.

    Returns:
        `mine` with `clew`'s exemplar reservoirs, and a View for every instrument that none of them matches.
    """
    return [*(with_reservoirs(view) for view in mine), EveryOtherInstrument(mine)]
