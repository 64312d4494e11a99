"""The Django contestants of `python -m benchmarks.middleware`: whole projects of one view, called through WSGI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.middleware_stacks import Sink, Stack, logger_of, wsgi_stack

_INSIDE = "clew.integrations.django.RequestMiddleware"


def django_stacks() -> Iterator[Stack | str]:
    """Make the Django contestants, whole projects of one view."""
    try:
        import django
        from django.conf import settings
    except ImportError:
        yield "django"
        return
    has_guid = True
    try:
        import django_guid  # noqa: F401
    except ImportError:
        has_guid = False
    guid = {"GUID_HEADER_NAME": "X-Request-ID", "EXPOSE_HEADER": False, "VALIDATE_GUID": True}
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="of a benchmark",
            LOGGING_CONFIG=None,
            MIDDLEWARE=[],
            INSTALLED_APPS=["django_guid"] if has_guid else [],
            DJANGO_GUID=guid,
        )
        django.setup()
    from clew.integrations.logging import RequestIdFilter

    yield _django("django-bare", "no middleware", [], Sink())
    if has_guid:
        from django_guid.log_filters import CorrelationId

        yield _django(
            *("django-guid", "django-guid"),
            ["django_guid.middleware.guid_middleware"],
            Sink("correlation_id", CorrelationId()),
        )
    else:
        yield "django-guid"
    sink = Sink("request_id", RequestIdFilter())
    yield _django("clew-django", "clew in MIDDLEWARE, metrics False", [_INSIDE], sink, CLEW_REQUEST={"metrics": False})
    sink = Sink("request_id", RequestIdFilter())
    yield _django("clew-django-full", "clew in MIDDLEWARE, HTTP metrics with exemplars", [_INSIDE], sink)
    sink = Sink("request_id", RequestIdFilter())
    yield _django("clew-django-outside", "clew around Django, metrics False", None, sink, metrics=False)
    sink = Sink("request_id", RequestIdFilter())
    yield _django("clew-django-outside-full", "clew around Django, HTTP metrics with exemplars", None, sink)


def _django(key: str, label: str, middleware: list[str] | None, sink: Sink, **options: Any) -> Stack:
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    from clew.integrations.django import instrument

    settings = {name: value for name, value in options.items() if name.isupper()}
    with override_settings(MIDDLEWARE=middleware or [], **settings):
        application: Any = WSGIHandler()
    _infos[key] = logger_of(key, sink).info

    def with_key(environ: Any, start_response: Any) -> Any:
        environ["bench.key"] = key  # the view is one for all
        return application(environ, start_response)

    if middleware is None:
        application = instrument(application, **{name: value for name, value in options.items() if name.islower()})
    return wsgi_stack("django", key, label, with_key, sink, key.endswith("-full"))


_infos: dict[str, Callable[[str], None]] = {}


def read_order(request: Any, order: int) -> Any:
    """Return the one answer of the one view."""
    from django.http import HttpResponse

    _infos[request.META["bench.key"]]("read an order")
    return HttpResponse(b"ok", content_type="text/plain")


class _Urls:
    """Made when Django asks for it, so that this module can be read without Django."""

    def __iter__(self) -> Iterator[Any]:
        from django.urls import path

        yield path("orders/<int:order>", read_order)


urlpatterns = _Urls()
