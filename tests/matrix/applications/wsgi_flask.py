"""A Flask application."""

from __future__ import annotations

import flask
import shop

from clew.integrations.flask import instrument

application = flask.Flask("shop")


@application.get("/items/<item>")
def read_item(item: str) -> str:
    found = shop.look_up(item)
    shop.ask_stock()
    return found


@application.get("/fails")
def fail() -> str:
    shop.fail()
    return ""


@application.get("/refuses")
def refuse() -> tuple[str, int]:
    return "out of order", 500


@application.get("/stream")
def stream() -> flask.Response:
    return flask.Response(shop.parts())


if shop.CONTRIB:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    FlaskInstrumentor().instrument_app(application)
instrument(application)
