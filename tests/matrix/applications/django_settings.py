"""The settings and URLs of a Django project."""

from __future__ import annotations

import shop
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

ALLOWED_HOSTS = ["*"]
SECRET_KEY = "known to everybody, since this project is one of tests"
ROOT_URLCONF = "django_settings"
WSGI_APPLICATION = "wsgi_django.application"
MIDDLEWARE: list[str] = []
LOGGING = shop.LOGGING


def read_item(request: HttpRequest, item: str) -> HttpResponse:
    found = shop.look_up(item)
    shop.ask_stock()
    return HttpResponse(found)


async def read_item_async(request: HttpRequest, item: str) -> HttpResponse:
    found = shop.look_up(item)
    await shop.ask_stock_async()
    return HttpResponse(found)


def fail(request: HttpRequest) -> None:
    shop.fail()


def refuse(request: HttpRequest) -> HttpResponse:
    return HttpResponse("out of order", status=500)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(shop.async_parts() if hasattr(request, "scope") else shop.parts())


urlpatterns = [
    path("items/<str:item>", read_item),
    path("async-items/<str:item>", read_item_async),
    path("fails", fail),
    path("refuses", refuse),
    path("stream", stream),
]
