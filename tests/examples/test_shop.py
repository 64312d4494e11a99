"""The shop does what a shop should: its parts, each in this process, over real databases."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from math import ceil
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from shop import carts, catalogue, checkout, front, jobs, payments, worker
from shop.carts import Line
from shop.checkout import EmptyCart, OutOfStock
from shop.database import connect, transaction
from shop.load import BAD_CARD, GOOD_CARD
from shop.postage import HEAVIEST, postage
from shop.provider import Provider, ProviderUnavailable
from shop.seed import FIRST_ORDINARY, GIFT_CARD, SOLD_OUT
from shop.till import CardDeclined, PaymentsUnavailable, Till

import clew

PAYMENTS = "http://payments"


def till_with(status: int) -> Till:
    return Till([PAYMENTS], httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(status))))


def stock(shop: sqlite3.Connection, product: int) -> int:
    return int(shop.execute("SELECT stock FROM products WHERE id = ?", (product,)).fetchone()[0])


def filled(shop: sqlite3.Connection, quantities: dict[int, int]) -> carts.Cart:
    return carts.cart(shop, carts.open_cart(shop, "customer-1", quantities))


def states(shop: sqlite3.Connection) -> list[str]:
    return [row["state"] for row in shop.execute("SELECT state FROM orders WHERE id NOT LIKE 'past-%'")]


# ---------------------------------------------------------------------------------------------------------- catalogue


def test_a_search_finds_products_with_all_words_and_the_most_sold_comes_first(shop: sqlite3.Connection) -> None:
    found = catalogue.search(shop, "wool scarf")
    descriptions = {row["id"]: row["description"] for row in shop.execute("SELECT id, description FROM products")}
    assert len(found) == catalogue.PAGE
    assert all("wool" in descriptions[one.id] and "scarf" in descriptions[one.id] for one in found)
    sold = [
        shop.execute("SELECT sum(quantity) FROM order_lines WHERE product_id = ?", (one.id,)).fetchone()[0] or 0
        for one in found
    ]
    assert sold == sorted(sold, reverse=True)


def test_a_search_for_what_nobody_makes_finds_nothing(shop: sqlite3.Connection) -> None:
    assert catalogue.search(shop, "'; DROP TABLE products; --") == []
    assert catalogue.page(shop, 1)


# ----------------------------------------------------------------------------------------------------------- checkout


def test_a_paid_order_takes_its_stock_empties_the_cart_and_leaves_a_job_with_the_request_id(
    shop: sqlite3.Connection,
) -> None:
    before = stock(shop, FIRST_ORDINARY)
    cart = filled(shop, {FIRST_ORDINARY: 3})
    with clew.request("paying-1"):
        order = checkout.check_out(shop, till_with(201), cart, GOOD_CARD)
    assert checkout.order(shop, order.id) == order
    assert order.state == "paid"
    assert stock(shop, FIRST_ORDINARY) == before - 3
    assert carts.cart(shop, cart.id).lines == ()
    job = jobs.take(shop)
    assert job is not None
    assert (job.order_id, job.request_id) == (order.id, "paying-1")


@pytest.mark.parametrize(
    ("status", "error"), [(402, CardDeclined), (503, PaymentsUnavailable), (200, PaymentsUnavailable)]
)
def test_an_order_that_is_not_paid_is_cancelled_and_gives_its_stock_back(
    shop: sqlite3.Connection, status: int, error: type[Exception]
) -> None:
    before = stock(shop, FIRST_ORDINARY)
    cart = filled(shop, {FIRST_ORDINARY: 3})
    with pytest.raises(error):
        checkout.check_out(shop, till_with(status), cart, BAD_CARD)
    assert stock(shop, FIRST_ORDINARY) == before
    assert states(shop) == ["cancelled"]
    assert carts.cart(shop, cart.id) == cart
    assert jobs.take(shop) is None


def test_an_unreachable_payments_service_is_distinguished_from_a_declined_card(shop: sqlite3.Connection) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there", request=request)

    away = Till([PAYMENTS], httpx.Client(transport=httpx.MockTransport(refuse)))
    with pytest.raises(PaymentsUnavailable, match="no answer"):
        checkout.check_out(shop, away, filled(shop, {FIRST_ORDINARY: 1}), GOOD_CARD)
    assert states(shop) == ["cancelled"]


def test_where_one_product_is_sold_out_nothing_is_reserved_and_nothing_charged(shop: sqlite3.Connection) -> None:
    before = stock(shop, FIRST_ORDINARY)
    never = Till([PAYMENTS], httpx.Client(transport=httpx.MockTransport(lambda _: pytest.fail("it was charged"))))
    with pytest.raises(OutOfStock, match="first edition print"):
        checkout.check_out(shop, never, filled(shop, {SOLD_OUT: 1, FIRST_ORDINARY: 1}), GOOD_CARD)
    assert stock(shop, FIRST_ORDINARY) == before
    assert states(shop) == []


def test_an_empty_cart_cannot_be_paid(shop: sqlite3.Connection) -> None:
    with pytest.raises(EmptyCart):
        checkout.check_out(shop, till_with(201), filled(shop, {}), GOOD_CARD)


def test_the_till_asks_one_instance_after_the_other() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(201)

    till = Till(["http://one", "http://two/"], httpx.Client(transport=httpx.MockTransport(answer)))
    for number in range(4):
        till.charge(f"order-{number}", GOOD_CARD, 100)
    assert asked == ["one", "two", "one", "two"]


# ------------------------------------------------------------------------------------------------------------ postage


@given(st.lists(st.tuples(st.integers(1, 1_000), st.integers(1, 6_000)), min_size=1, max_size=70))
def test_an_order_goes_in_as_few_parcels_as_can_carry_it(pieces: list[tuple[int, int]]) -> None:
    found = postage([Line(1, "thing", quantity, 100, grams) for quantity, grams in pieces])
    assert found.parcels == ceil(sum(quantity * grams for quantity, grams in pieces) / HEAVIEST)
    assert 490 * found.parcels <= found.price <= 1_190 * found.parcels


def test_the_bug_that_the_demo_looks_for_is_there_a_gift_card_alone_cannot_be_paid(shop: sqlite3.Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        checkout.check_out(shop, till_with(201), filled(shop, {GIFT_CARD: 1}), GOOD_CARD)
    assert states(shop) == []


# ----------------------------------------------------------------------------------------------------------- payments


def test_an_order_is_charged_once_however_often_it_is_asked_for(books: sqlite3.Connection) -> None:
    payment = payments.Payment(order_id="order-1", card=GOOD_CARD, amount=1_000)
    assert payments.take(books, payment)
    assert payments.take(books, payment)
    assert [tuple(row) for row in books.execute("SELECT * FROM payments")] == [("order-1", 1_000)]


def test_a_declined_card_leaves_nothing_in_the_books(books: sqlite3.Connection) -> None:
    assert not payments.take(books, payments.Payment(order_id="order-1", card=BAD_CARD, amount=1_000))
    assert books.execute("SELECT count(*) FROM payments").fetchone()[0] == 0


def test_a_sick_provider_gives_up_for_some_orders_and_always_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("shop.provider.time.sleep", waited.append)

    def outcomes(provider: Provider) -> list[bool | None]:
        found: list[bool | None] = []
        for number in range(100):
            try:
                found.append(provider.charge(f"order-{number}", GOOD_CARD, 100))
            except ProviderUnavailable:
                found.append(None)
        return found

    sick = outcomes(Provider(sick=True))
    assert sick == outcomes(Provider(sick=True))
    assert 10 < sick.count(None) < 40
    assert min(waited) >= 0.3
    assert outcomes(Provider()) == [True] * 100


@pytest.mark.usefixtures("books")
def test_the_payments_service_answers_201_402_or_503_and_its_provider_can_be_made_sick_and_well_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shop.provider.time.sleep", lambda _: None)
    client = TestClient(payments.app)

    def pay(order_id: str, card: str) -> int:
        return client.post("/payments", json={"order_id": order_id, "card": card, "amount": 100}).status_code

    assert pay("order-1", GOOD_CARD) == 201
    assert pay("order-2", BAD_CARD) == 402
    assert client.put("/provider", json={"sick": True}).status_code == 204
    try:
        assert {pay(f"sick-{number}", GOOD_CARD) for number in range(30)} == {201, 503}
    finally:
        assert client.put("/provider", json={"sick": False}).status_code == 204
    assert {pay(f"well-{number}", GOOD_CARD) for number in range(30)} == {201}


# ------------------------------------------------------------------------------------------------------------- worker


def a_job(shop: sqlite3.Connection, request_id: str) -> jobs.Job:
    with clew.request(request_id):
        checkout.check_out(shop, till_with(201), filled(shop, {FIRST_ORDINARY: 1}), GOOD_CARD)
    job = jobs.take(shop)
    assert job is not None
    return job


def test_the_worker_sends_an_order_inside_the_request_that_paid_it(
    shop: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(shop, "paying-1")
    seen: list[str | None] = []
    pack = worker.pack
    monkeypatch.setattr(worker, "pack", lambda *given: seen.append(clew.request_id()) or pack(*given))
    worker.work(shop, job)
    assert seen == ["paying-1"]
    assert clew.request_id() is None
    order = checkout.order(shop, job.order_id)
    assert (order.state, order.tracking) == ("shipped", f"bicycle-{job.id:06}")
    assert jobs.unfinished(shop) == 0


def test_a_job_that_fails_is_written_down_as_failed_and_the_worker_goes_on(
    shop: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = a_job(shop, "paying-1")

    def tear(*_: object) -> int:
        raise OSError("the paper is torn")

    monkeypatch.setattr(worker, "pack", tear)
    worker.work(shop, job)
    assert shop.execute("SELECT state FROM jobs").fetchone()["state"] == "failed"
    assert "the paper is torn" in caplog.text


def test_each_job_is_taken_by_one_worker_only(shop: sqlite3.Connection, shop_file: Path) -> None:
    order_id = a_job(shop, "paying-1").order_id
    with transaction(shop):
        for _ in range(100):
            jobs.add(shop, order_id)
    taken: list[int] = []

    def take_all() -> None:
        with closing(connect(shop_file)) as connection:
            while job := jobs.take(connection):
                taken.append(job.id)

    workers = [threading.Thread(target=take_all) for _ in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert len(taken) == len(set(taken)) == 100


# -------------------------------------------------------------------------------------------------------------- front


def test_a_transaction_that_an_exception_leaves_writes_nothing(shop: sqlite3.Connection) -> None:
    def write_and_fail() -> None:
        with transaction(shop):
            shop.execute("INSERT INTO carts VALUES ('cart-1', 'customer-1')")
            raise KeyError("no")

    with pytest.raises(KeyError):
        write_and_fail()
    assert shop.execute("SELECT count(*) FROM carts").fetchone()[0] == 0


@pytest.fixture
def client(shop_file: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setitem(front.app.dependency_overrides, front.till, lambda: till_with(201))
    return TestClient(front.app, raise_server_exceptions=False)


def test_a_customer_finds_fills_pays_and_tracks(client: TestClient) -> None:
    [product, *_] = client.get("/search", params={"words": "wool"}).json()
    assert client.get(f"/products/{product['id']}").json() == product
    cart = client.post("/carts", json={"customer": "customer-1"}).json()["id"]
    assert client.put(f"/carts/{cart}/lines/{product['id']}", json={"quantity": 2}).status_code == 204
    [line] = client.get(f"/carts/{cart}").json()["lines"]
    assert (line["product_id"], line["quantity"]) == (product["id"], 2)
    paid = client.post(f"/carts/{cart}/checkout", json={"card": GOOD_CARD})
    assert paid.status_code == 201
    assert client.get(f"/orders/{paid.json()['id']}").json() == paid.json()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/products/999999", None, 404),
        ("GET", "/products?page=0", None, 422),
        ("GET", "/carts/none", None, 404),
        ("GET", "/orders/none", None, 404),
        ("POST", "/carts", {"customer": "customer-1", "quantities": {"999999": 1}}, 404),
        ("PUT", "/carts/none/lines/3", {"quantity": 1}, 404),
        ("PUT", "/carts/none/lines/3", {"quantity": 0}, 422),
        ("POST", "/carts/none/checkout", {"card": GOOD_CARD}, 404),
        ("POST", "/carts/none/checkout", {"card": "cash"}, 422),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_refused(
    client: TestClient, method: str, path: str, body: object, status: int
) -> None:
    assert client.request(method, path, json=body).status_code == status


@pytest.mark.parametrize(
    ("quantities", "status", "error"),
    [({}, 409, "EmptyCart"), ({SOLD_OUT: 1}, 409, "OutOfStock"), ({GIFT_CARD: 1}, 500, None)],
)
def test_a_checkout_that_cannot_be_says_why_and_the_bug_is_a_500_with_its_request_id(
    client: TestClient, quantities: dict[int, int], status: int, error: str | None
) -> None:
    cart = client.post("/carts", json={"customer": "customer-1", "quantities": quantities}).json()["id"]
    answer = client.post(
        f"/carts/{cart}/checkout", json={"card": GOOD_CARD}, headers={"X-Request-ID": "customer-1-checkout"}
    )
    assert answer.status_code == status
    assert answer.headers["X-Request-ID"] == "customer-1-checkout"
    if error:
        assert answer.json()["error"] == error
