"""A Django project under WSGI."""

from __future__ import annotations

import os

import shop
from django.core.wsgi import get_wsgi_application

from clew.integrations.django import instrument

os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"

if shop.CONTRIB:
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    DjangoInstrumentor().instrument()

application = instrument(get_wsgi_application())
