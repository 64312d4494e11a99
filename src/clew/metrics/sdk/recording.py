"""What is recorded into the SDK's instruments: it waits where its thread is inside the SDK, and is a plain number.

What is private:

- ``consume_measurement`` of ``MeterProvider._measurement_consumer``, and the names of the modules in `_ENTERED_ONCE`:
  so that a signal handler or a finalizer that measures in the middle of the SDK's work waits for its end. Without: it
  may wait for itself.
- ``register_asynchronous_instrument`` of ``MeterProvider._measurement_consumer``, and the ``callback`` of what is
  registered: to take what it observes, of any kind of number, as `int` and `float`, since one that cannot be added to
  the others ends each collection from then on. Without: it does.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

from opentelemetry.metrics import MeterProvider as ApiMeterProvider

from clew.any_value import nearest_finite
from clew.diagnostics import count, warn_once
from clew.interpreter.interruptions import let_through
from clew.metrics import reentry

_ENTERED_ONCE = (
    "opentelemetry.sdk.metrics._internal",
    "opentelemetry.sdk.metrics._internal.measurement_consumer",
)


reentry.MODULES.update(_ENTERED_ONCE)


def guard_recording(provider: ApiMeterProvider) -> None:
    """Have what is recorded into the SDK's instruments wait where its thread is in the middle of that already.

    For all instruments of the provider, since they share what is half changed then. And have them measure plain
    numbers, since they share a collection too.
    """
    consumer: Any = getattr(provider, "_measurement_consumer", None)
    consume: Any = getattr(consumer, "consume_measurement", None)
    if consume is None or "consume_measurement" in vars(consumer):  # it is ours already
        return

    def consume_guarded(measurement: Any) -> None:
        kind = type(measurement.value)
        if kind is not float and kind is not int:
            measurement = _plain(measurement)
            if measurement is None:
                return
        if reentry.may_enter():
            reentry.by_itself(consume, measurement)
            reentry.catch_up()
        else:
            copied = copy.copy(measurement)
            if measurement.attributes:
                object.__setattr__(copied, "attributes", dict(measurement.attributes))  # the caller may change its own
            reentry.put_off(partial(consume_guarded, copied))

    consumer.consume_measurement = consume_guarded
    register: Any = getattr(consumer, "register_asynchronous_instrument", None)
    if register is None:
        return

    def register_plain(instrument: Any) -> None:
        callback: Any = getattr(instrument, "callback", None)
        if callback is not None:

            def callback_plain(options: Any) -> Any:
                return filter(None, map(_plain, callback(options)))

            instrument.callback = callback_plain
        register(instrument)

    consumer.register_asynchronous_instrument = register_plain


def _plain(measurement: Any) -> Any:
    """Return a measurement whose value is a plain number; None, counted and logged once, where it is none."""
    try:
        value = nearest_finite(measurement.value)
        return measurement if value is measurement.value else replace(measurement, value=value)
    except Exception as error:
        let_through(error)
        name = getattr(measurement.instrument, "name", "")
        count("measurement.ignored")
        warn_once(("measurement", "", name), "A measurement of %s was ignored: %s", name, error)
        return None
