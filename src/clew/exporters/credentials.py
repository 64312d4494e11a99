"""Credentials from an installed plug-in: the entry points ``opentelemetry_otlp_credential_provider``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

from clew.delivery.destination import UndeliveredError
from clew.settings.otlp import CREDENTIAL_PROVIDERS

T = TypeVar("T")


def load_credentials(name: str | None, kind: type[T]) -> T | None:
    """Call the provider of that name, which has to return a `kind`; None where no name is set.

    Raises:
        UndeliveredError: Where it cannot be loaded or returns something else.
    """
    if name is None:
        return None
    try:
        (point,) = entry_points(group=CREDENTIAL_PROVIDERS, name=name)
        credentials: object = point.load()()
    except Exception as error:
        raise UndeliveredError(f"the credential provider {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(credentials, kind):
        raise UndeliveredError(f"the credential provider {name} returned no {kind.__name__}")
    return credentials
