"""Flask applications."""

from __future__ import annotations

from typing import Any

import pytest
from recorded import Recorded

import clew
from clew.integrations import flask as integration
from clew.integrations.wsgi import RequestMiddleware

flask = pytest.importorskip("flask")


@pytest.fixture
def app() -> Any:
    app = flask.Flask("shop")

    @app.get("/items/<int:item>")
    def item(item: int) -> str:
        return str(clew.request_id())

    @app.get("/fails")
    def fails() -> str:
        raise RuntimeError("it failed")

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response(f"{clew.request_id()} " for _ in range(3))

    orders = flask.Blueprint("orders", __name__, url_prefix="/orders")

    @orders.get("/<order>")
    def order(order: str) -> str:
        return order

    app.register_blueprint(orders)
    return app


def test_instrumenting_returns_the_application_and_binds_the_id(app: Any) -> None:
    assert integration.instrument(app) is app
    response = app.test_client().get("/items/1", headers={"X-Request-ID": "abc"})
    assert response.text == "abc"
    assert response.headers["X-Request-ID"] == "abc"
    response.close()
    assert clew.request_id() is None


def test_a_client_that_does_not_close_its_responses_nests_no_requests(app: Any) -> None:
    client = integration.instrument(app, generator=lambda: "made").test_client()
    responses = [client.get("/stream", headers={"X-Request-ID": f"r-{number}"}) for number in range(3)]
    for number in (1, 0, 2):
        assert responses[number].text == f"r-{number} " * 3
    for response in responses:
        response.close()
    assert clew.request_id() is None


def test_the_answer_to_an_unhandled_exception_and_to_an_unknown_path_carries_the_id(app: Any) -> None:
    client = integration.instrument(app).test_client()
    for path, status in (("/fails", 500), ("/nothing", 404)):
        response = client.get(path, headers={"X-Request-ID": "abc"})
        assert (response.status_code, response.headers["X-Request-ID"]) == (status, "abc")


def test_something_else_than_an_application_is_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        integration.instrument(7)


def test_a_stream_is_made_inside_the_request(app: Any) -> None:
    client = integration.instrument(app).test_client()
    assert client.get("/stream", headers={"X-Request-ID": "abc"}).text == "abc abc abc "


@pytest.mark.parametrize(
    ("path", "route"),
    [("/items/7", "/items/<int:item>"), ("/orders/7f3a", "/orders/<order>"), ("/nothing", None), ("/fails", "/fails")],
)
def test_the_route_is_the_rule(app: Any, recorded: Recorded, path: str, route: str | None) -> None:
    integration.instrument(app).test_client().get(path).close()
    (point,) = recorded.points("http.server.request.duration")
    assert point.attributes.get("http.route") == route


def test_keywords_are_those_of_the_wsgi_middleware(app: Any) -> None:
    client = integration.instrument(app, echo="X-Echo", trust=False).test_client()
    response = client.get("/items/1", headers={"X-Request-ID": "abc"})
    assert response.headers["X-Echo"] == response.text != "abc"


def test_a_mounted_application_is_not_given_half_a_route(app: Any, recorded: Recorded) -> None:
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.test import Client

    outer = RequestMiddleware(DispatcherMiddleware(flask.Flask("outer"), {"/shop": app}))
    response = Client(outer).get("/shop/items/1", headers={"X-Request-ID": "abc"})
    assert response.text == "abc"
    response.close()
    (point,) = recorded.points("http.server.request.duration")
    assert "http.route" not in point.attributes
