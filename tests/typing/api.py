"""The typed promise of the public API: never run, read by mypy and pyright in their strict modes.

A line that must not pass carries an ignore comment, and an ignore comment that is not needed is an error; so a promise
that is lost fails either way.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import ExemplarFilter
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import TracerProvider
from typing_extensions import assert_type

import clew
from clew.integrations import asgi, wsgi

T = TypeVar("T")


class Cart:
    """What is measured below takes one."""

    tier: str = "gold"


def is_expected(error: BaseException) -> bool:
    """Judge an exception."""
    return str(error) == "404"


class OutOfStockError(Exception):
    """An expected exception."""


# ---------------------------------------------------------------------------------------------- measure: decorators


@clew.measure
def bare(cart: Cart, *, express: bool = False) -> int:
    """Measured under the name ``module.qualname``."""
    return 1


@clew.measure("checkout")
def named(cart: Cart, *, express: bool = False) -> int:
    """Measured under a name of its own."""
    return 1


@clew.measure()
def called_without_a_name(cart: Cart) -> int:
    """Measured under the name ``module.qualname``."""
    return 1


assert_type(bare(Cart()), int)
assert_type(named(Cart(), express=True), int)
assert_type(called_without_a_name(Cart()), int)
bare("no cart")  # type: ignore[arg-type]
bare(Cart(), express="yes")  # type: ignore[arg-type]
bare()  # type: ignore[call-arg]
named("no cart")  # type: ignore[arg-type]
named(Cart(), True)  # type: ignore[call-arg]
called_without_a_name(Cart(), Cart())  # type: ignore[call-arg]


def tier_of(cart: Cart) -> dict[str, str]:
    """Compute attributes from the arguments of a call."""
    return {"tier": cart.tier}


class Receipt:
    """What a charge returns."""

    error: str | None = None


@clew.measure(
    "charge", attributes={"tier": "gold", "items": 3, "fast": True, "sizes": [1, 2]}, expected=OutOfStockError
)
def constant_attributes(cart: Cart) -> Receipt:
    """Measured with constant attributes."""
    return Receipt()


@clew.measure("charge", attributes=tier_of, expected=(OutOfStockError, KeyboardInterrupt))
def computed_attributes(cart: Cart) -> Receipt:
    """Measured with computed attributes."""
    return Receipt()


@clew.measure("charge", failed=lambda receipt: receipt.error, span=True)
def failure_returned(cart: Cart) -> Receipt:
    """Measured with failures that are returned."""
    return Receipt()


assert_type(constant_attributes(Cart()), Receipt)
assert_type(computed_attributes(Cart()), Receipt)
assert_type(failure_returned(Cart()), Receipt)
clew.measure(3)  # type: ignore[call-overload]
clew.measure("charge", tier="gold")  # type: ignore[call-overload]
clew.measure("charge", attributes="gold")  # type: ignore[call-overload]
clew.measure("charge", expected=lambda error: isinstance(error, OutOfStockError))
clew.measure("charge", expected=is_expected)
clew.measure("charge", expected=lambda: True)  # type: ignore[arg-type,misc]
clew.measure("charge", expected="OutOfStockError")  # type: ignore[call-overload]
clew.measure("charge", expected=int)  # type: ignore[arg-type]
clew.measure("charge", failed=True)  # type: ignore[call-overload]
clew.measure("charge", span="yes")  # type: ignore[call-overload]


@clew.measure
async def coroutine(cart: Cart) -> int:
    """Measured from the first step to the return."""
    return 1


@clew.measure("steps")
def generator(cart: Cart) -> Generator[int, str, float]:
    """Measured from its first step to its end."""
    yield 1
    return 1.0


@clew.measure("rows")
def iterator(cart: Cart) -> Iterator[int]:
    """Measured from its first step to its end."""
    yield 1


@clew.measure("pages")
async def async_generator(cart: Cart) -> AsyncGenerator[int, str]:
    """Measured from its first step to its end."""
    yield 1


@clew.measure
async def async_iterator(cart: Cart) -> AsyncIterator[int]:
    """Measured from its first step to its end."""
    yield 1


@clew.measure
def of_any_type(value: T) -> list[T]:
    """Type variables stay."""
    return [value]


async def runs_them() -> None:
    """What comes out of the measured forms."""
    assert_type(await coroutine(Cart()), int)
    assert_type(generator(Cart()), Generator[int, str, float])
    assert_type(iterator(Cart()), Iterator[int])
    assert_type(async_generator(Cart()), AsyncGenerator[int, str])
    assert_type(async_iterator(Cart()), AsyncIterator[int])
    assert_type(of_any_type(1), list[int])
    await coroutine("no cart")  # type: ignore[arg-type]
    generator("no cart")  # type: ignore[arg-type]
    async_generator()  # type: ignore[call-arg]


takes_a_coroutine_function: Callable[[Cart], Coroutine[Any, Any, int]] = coroutine
takes_a_function: Callable[[Cart], int] = bare
takes_another: Callable[[str], int] = bare  # type: ignore[assignment]


class Shop:
    """Methods of each kind, in either order with the standard decorators."""

    @clew.measure
    def method(self, cart: Cart) -> int:
        """A method."""
        return 1

    @clew.measure("async method")
    async def async_method(self, cart: Cart) -> int:
        """A coroutine method."""
        return 1

    @classmethod
    @clew.measure
    def class_method(cls, cart: Cart) -> int:
        """A classmethod over a measured function."""
        return 1

    @clew.measure("class method")
    @classmethod
    def measured_class_method(cls, cart: Cart) -> int:
        """A measured classmethod."""
        return 1

    @staticmethod
    @clew.measure
    def static_method(cart: Cart) -> int:
        """A staticmethod over a measured function."""
        return 1

    @clew.measure("static method")
    @staticmethod
    def measured_static_method(cart: Cart) -> int:
        """A measured staticmethod."""
        return 1

    @property
    @clew.measure
    def total(self) -> float:
        """A property over a measured function."""
        return 1.0


async def uses_the_methods(shop: Shop) -> None:
    """What the methods take and return."""
    assert_type(shop.method(Cart()), int)
    assert_type(await shop.async_method(Cart()), int)
    assert_type(Shop.class_method(Cart()), int)
    assert_type(Shop.measured_class_method(Cart()), int)
    assert_type(Shop.static_method(Cart()), int)
    assert_type(shop.measured_static_method(Cart()), int)
    assert_type(shop.total, float)
    shop.method("no cart")  # type: ignore[arg-type]
    Shop.class_method()  # type: ignore[call-arg]
    Shop.measured_class_method("no cart")  # type: ignore[arg-type]
    shop.measured_static_method()  # type: ignore[call-arg]


# -------------------------------------------------------------------------------------------------- measure: blocks


async def blocks() -> None:
    """A block reports to its run what happens inside."""
    with clew.measure("charge card", attributes={"tier": "gold"}) as m:
        assert_type(m.set("payment.method", "visa"), None)
        assert_type(m.note("order.id", "8f3c"), None)
        m.fail("declined")
        m.fail()
        m.set(3, "visa")  # type: ignore[arg-type]
        m.note("order.id")  # type: ignore[call-arg]
        m.fail(ValueError())  # type: ignore[arg-type]
    async with clew.measure("charge card") as m:
        m.set("payment.method", "visa")


def returns_out_of_a_block(cart: Cart) -> int:
    """A block lets exceptions pass, so nothing is missing after it."""
    with clew.measure("charge card"):
        return 1


# ------------------------------------------------------------------------------------------------------- the request


def requests() -> None:
    """A request is a block with its ID, and a decorator."""
    with clew.request() as request_id:
        assert_type(request_id, str)
    with clew.request("given-id") as request_id:
        assert_type(request_id, str)
    assert_type(clew.request_id(), str | None)
    clew.request(3)  # type: ignore[call-overload]
    clew.request(value="given-id")  # type: ignore[call-overload]
    clew.request_id("given-id")  # type: ignore[call-arg]


@clew.request()
@clew.measure("job")
def job(cart: Cart) -> int:
    """Each call is a request."""
    return 1


@clew.request()
async def async_job(cart: Cart) -> int:
    """Each call is a request."""
    return 1


@clew.request
def bare_job(cart: Cart) -> int:
    """Each call is a request."""
    return 1


class Worker:
    """A request for each call of a method."""

    @clew.request()
    def run(self, cart: Cart) -> int:
        """A method."""
        return 1

    @clew.request()
    @classmethod
    def start(cls, cart: Cart) -> int:
        """A classmethod."""
        return 1


async def uses_the_jobs(worker: Worker) -> None:
    """What the jobs take and return."""
    assert_type(job(Cart()), int)
    assert_type(await async_job(Cart()), int)
    assert_type(bare_job(Cart()), int)
    assert_type(worker.run(Cart()), int)
    assert_type(Worker.start(Cart()), int)
    job("no cart")  # type: ignore[arg-type]
    worker.run()  # type: ignore[call-arg]
    clew.request()(3)  # type: ignore[call-overload]


# ------------------------------------------------------------------------------------------------------- instruments

orders = clew.counter("orders", unit="{order}", description="Orders taken.", scope="shop")
basket = clew.histogram("basket", unit="EUR", bounds=[1, 5, 10.5])
queued = clew.up_down_counter("queued")
stock = clew.gauge("stock", unit="{item}")

an_api_counter: metrics.Counter = orders
an_api_histogram: metrics.Histogram = basket
an_api_up_down_counter: metrics.UpDownCounter = queued

assert_type(orders.add(1), None)
orders.add(1, {"tier": "gold", "items": 3, "fast": True, "sizes": [1, 2]}, Context())
basket.record(12.5, {"tier": "gold"})
queued.add(-1)
stock.set(7, {"shelf": "a"})
orders.bind({"tier": "gold"}).add(1)
orders.bind({"tier": "gold"}).add(1, Context())
basket.bind({"tier": "gold"}).record(12.5)
queued.bind({"tier": "gold"}).add(-1)
stock.bind({"shelf": "a"}).set(7)

orders.record(1)  # type: ignore[attr-defined]
orders.add("1")  # type: ignore[arg-type]
basket.add(1)  # type: ignore[attr-defined]
stock.add(1)  # type: ignore[attr-defined]
orders.bind()  # type: ignore[call-arg]
orders.bind({"tier": "gold"}).add(1, {"tier": "silver"})  # type: ignore[arg-type]
basket.bind({"tier": "gold"}).add(1)  # type: ignore[attr-defined]
clew.counter("orders", "{order}")  # type: ignore[call-arg]
clew.counter("orders", bounds=[1])  # type: ignore[call-arg]
clew.histogram("basket", bounds=["1"])  # type: ignore[list-item]

# ---------------------------------------------------------------------------------------------------------- its life

telemetry = clew.configure()
assert_type(telemetry, clew.Telemetry)
assert_type(telemetry.force_flush(), bool)
assert_type(telemetry.force_flush(10), bool)
assert_type(telemetry.shutdown(timeout=0.5), bool)
assert_type(telemetry.meter_provider, MeterProvider)
assert_type(telemetry.tracer_provider, TracerProvider)
telemetry.shutdown("soon")  # type: ignore[arg-type]

clew.configure(resource={"service.name": "shop"}, views=[View(instrument_name="orders", name="sold")])
clew.configure(
    resource=Resource.create(), metric_readers=[InMemoryMetricReader()], span_processors=(), log_processors=[]
)
clew.configure(
    request_id_header="X-Correlation-ID",
    request_id_attribute="correlation_id",
    trust_request_id=False,
    request_id_hosts=["shop.example", ".internal:8080"],
    request_id_baggage=True,
    expected=(OutOfStockError, "django.http.Http404"),
    measure="shop.orders:*,shop.db:query",
    spans=True,
    cardinality_limit=50,
    max_export_bytes=1_000_000,
    zero_points=False,
    shutdown_timeout=1.5,
    strict=False,
)
clew.configure({"service.name": "shop"})  # type: ignore[call-arg]
clew.configure(views=View(instrument_name="orders", name="sold"))  # type: ignore[arg-type]
clew.configure(expected=is_expected)
clew.configure(expected=(OutOfStockError, "django.http.Http404", is_expected))
clew.configure(expected=OutOfStockError, request_id_hosts="shop.example", strict=None)
clew.configure(span=True)  # type: ignore[call-arg]
clew.configure(spans="yes")  # type: ignore[arg-type]
clew.configure(expected=int)  # type: ignore[arg-type]
clew.configure(strict="no")  # type: ignore[arg-type]
clew.configure(logs="interesting", logs_slow=0.5, logs_sample_ratio=0.01, logs_canonical=True)
clew.configure(logs_sample_ratio="all")  # type: ignore[arg-type]
clew.configure(resource="shop")  # type: ignore[arg-type]

try:
    clew.configure()
except clew.ConfigurationError as error:
    assert_type(error, clew.ConfigurationError)

assert_type(clew.exemplar_filter(), ExemplarFilter)
assert_type(clew.views(), list[View])
SdkMeterProvider(views=clew.views(View(instrument_name="orders", name="sold")), exemplar_filter=clew.exemplar_filter())
clew.views([View(instrument_name="orders", name="sold")])  # type: ignore[arg-type]
clew.exemplar_filter(True)  # type: ignore[call-arg]

assert_type(clew.__version__, str)


# the keywords of middlewares


async def asgi_application(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None: ...


def wsgi_application(environ: wsgi.Environ, start_response: wsgi.StartResponse) -> list[bytes]:
    return []


def health(scope: asgi.Scope) -> bool:
    return bool(scope["path"] == "/health")


assert_type(asgi.RequestMiddleware(asgi_application, headers=["X-First"], ignore=health), asgi.RequestMiddleware)
assert_type(wsgi.RequestMiddleware(wsgi_application, echo=False, metrics="auto"), wsgi.RequestMiddleware)
asgi.RequestMiddleware(asgi_application, header="X-First")  # type: ignore[call-arg]
asgi.RequestMiddleware(asgi_application, trust="yes")  # type: ignore[arg-type]
wsgi.RequestMiddleware(wsgi_application, metrics="on")  # type: ignore[arg-type]
