"""Binds measured code to the current pipeline, where that has a fast path for it.

What bindings are made of is imported here once there is something to bind to, not with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clew.attributes import CARDINALITY_LIMIT
from clew.diagnostics import warn_once
from clew.interpreter import forks
from clew.interpreter.interruptions import let_through
from clew.operations import pipeline
from clew.operations.pipeline import Pipeline
from clew.operations.site import Site

if TYPE_CHECKING:
    from clew.metrics.lookup import InstrumentBinding


def import_bindings() -> None:
    """Import what the first measurements need, so that code that interrupts one never finds a module half imported."""
    for module in ("clew.operations.bindings", "clew.metrics.limits"):
        import_module(module)


def bind_site(site: Site) -> None:
    """Bind a decorated function to the current pipeline, unless that was tried before."""
    forks.notice()
    current = pipeline.current
    if current is None or not site.is_to_bind(current):
        return
    from clew.operations.bindings import site_binding

    site.tried = current
    try:
        site.set_binding(None if current.tracks_requests else site_binding(site, current))
    except BaseException as error:
        site.tried = None
        let_through(error)
        site.tried = current
        warn_once(("binding", site.name), "%s is measured on the slow path: %s", site.name, error)
    if current is not pipeline.current:  # it has changed meanwhile
        site.unbind()


def bind_block(name: str, current: Pipeline) -> None:
    """Bind further blocks of that name to a pipeline."""
    from clew.operations.bindings import block_binding

    if len(current.block_bindings) < CARDINALITY_LIMIT:
        current.block_bindings[name] = None if current.tracks_requests else block_binding(name, current)


def bind_instrument(instrument: Any, bounds: Sequence[float] | None, current: Pipeline) -> InstrumentBinding | None:
    """Return the binding of one of the user's instruments to a pipeline; None where it is recorded into as it is.

    Args:
        instrument: The SDK's own, of the pipeline's MeterProvider.
        bounds: Those of a histogram's buckets; None for an instrument that sums.
    """
    sharded = current.recorder.instrument(instrument, bounds)
    if sharded is None:
        return None
    from clew.metrics.lookup import InstrumentBinding

    return current.instrument_bindings.setdefault(sharded, InstrumentBinding(sharded.new_series))
