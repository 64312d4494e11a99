"""A Django project under ASGI."""

from __future__ import annotations

import os

import shop
from django.core.asgi import get_asgi_application

from clew.integrations.django import instrument

os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"

if shop.CONTRIB:
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    DjangoInstrumentor().instrument()

application = instrument(get_asgi_application())
