"""The functions that stand in for the decorated ones, one for each form that Python code has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any

from clew.interpreter.callables import is_coroutine_function
from clew.interpreter.interruptions import let_through
from clew.metrics.deferred import defer
from clew.operations.awaited import awaitable_on_slow_path
from clew.operations.bind import bind_site
from clew.operations.fast_path import fast_path
from clew.operations.generators import measured_async_generator, measured_generator
from clew.operations.run import begin_call

if TYPE_CHECKING:
    from clew.operations.site import Site

Function = Callable[..., Any]


def wrap(function: Function, site: Site) -> Function:
    """Return a function that measures each call of `function`, of the same kind for `inspect` and for frameworks."""
    if inspect.isasyncgenfunction(function):
        if site.failed is not None:
            raise TypeError(f"{site.name}: failed looks at a returned value, and an async generator returns none")
        return measured_async_generator(function, site)
    if inspect.isgeneratorfunction(function):
        return measured_generator(function, site)
    if is_coroutine_function(function):
        return _coroutine(function, site)
    return _function(function, site)


def _function(function: Function, site: Site) -> Function:
    def measured_on_slow_path(*args: Any, **kwargs: Any) -> Any:
        bind_site(site)
        run = begin_call(site, args, kwargs)
        if run is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            try:
                run.end(error)
            except RecursionError:  # no room on the stack
                defer((run.end_later, clock(), type(error)))
            except Exception as internal_error:
                if run.is_under_way:
                    defer((run.end_later, clock(), type(error)))
                let_through(internal_error)
            raise
        try:
            awaitable = awaitable_on_slow_path(run, site.failed, result)
            if awaitable is not None:
                return awaitable
            site.remember_class(result)
            run.end_with(result, site.failed)
        except RecursionError:
            defer((run.end_later, clock(), None))
        except Exception as error:
            if run.is_under_way:
                defer((run.end_later, clock(), None))
            let_through(error)
        return result

    return _on_fast_path(function, site, measured_on_slow_path)


def _coroutine(function: Function, site: Site) -> Function:
    async def measured_on_slow_path(*args: Any, **kwargs: Any) -> Any:
        bind_site(site)
        run = begin_call(site, args, kwargs)
        if run is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            try:
                run.end(error)
            except RecursionError:  # no room on the stack
                defer((run.end_later, clock(), type(error)))
            except Exception as internal_error:
                if run.is_under_way:
                    defer((run.end_later, clock(), type(error)))
                let_through(internal_error)
            raise
        try:
            run.end_with(result, site.failed)
        except RecursionError:
            defer((run.end_later, clock(), None))
        except Exception as error:
            if run.is_under_way:
                defer((run.end_later, clock(), None))
            let_through(error)
        return result

    return _on_fast_path(function, site, measured_on_slow_path)


def _on_fast_path(function: Function, site: Site, slow_path: Function) -> Function:
    measured = fast_path(function, slow_path, computes=site.compute is not None)
    site.keep_binding_in(measured)
    return measured
