"""OpenTelemetry's declarative configuration: the providers that the file named by ``OTEL_CONFIG_FILE`` describes.

The package `opentelemetry-configuration` (the extra ``clew[config]``) reads the file and builds them. Its function
`configure_sdk` has no place for request IDs, so the providers are built one by one and get them before anything is
measured. The file alone says where data goes and how; of the environment only the variables count that it names itself
(``${NAME}``), and those of `clew`. The differences to `configure_sdk`: exemplars carry request IDs unless the file
names an exemplar filter, the resource has a ``service.instance.id``, and `clew`'s propagators are used where the file
names none.

https://opentelemetry.io/docs/specs/otel/configuration/sdk/
"""

from __future__ import annotations

import atexit
import logging
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from clew.logs_bridge.request_id_processor import RequestIdLogRecordProcessor
from clew.metrics.sdk.providers import put_first
from clew.metrics.sdk.views import replace_views
from clew.metrics.views import exemplar_filter, views
from clew.propagation.spans import RequestIdSpanProcessor
from clew.providers.arguments import ProviderArguments
from clew.providers.from_settings import BuiltProvider, metric_readers, unusable
from clew.settings import ConfigurationError, Problem, Settings
from clew.settings.problems import shown
from clew.settings.resource import INSTANCE_ID, host_and_process

T = TypeVar("T")

_VARIABLE = "OTEL_CONFIG_FILE"


class ProvidersFromFile:
    """Builds the providers that a configuration file describes.

    Attributes:
        disabled: Whether the file turns everything off.
        resource: What the file says, with a ``service.instance.id`` and the attributes given in code.
        instance_id_given: Whether the file or the code chose the ``service.instance.id``.

    Raises:
        ConfigurationError: The package is missing, or the file cannot be read or is wrong.
    """

    def __init__(self, settings: Settings, arguments: ProviderArguments, resource: Any) -> None:
        assert settings.config_file is not None
        self._path = settings.config_file
        self._settings = settings
        self._arguments = arguments
        try:
            from opentelemetry.configuration import file  # pyright: ignore[reportMissingTypeStubs]
        except ImportError as error:
            raise self._problem(
                f"a file only with the package that reads it: pip install 'clew[config]' ({error})"
            ) from error
        self._file: Any = file
        self._config: Any = self._call(lambda: file.load_config_file(self._path))
        self.disabled = bool(self._config.disabled)
        own = Resource({INSTANCE_ID: str(uuid.uuid4())})
        described: Resource = own.merge(self._call(lambda: file.create_resource(self._config.resource)))
        if resource is not None:
            described = described.merge(resource if isinstance(resource, Resource) else Resource(dict(resource)))
        self.instance_id_given = described.attributes[INSTANCE_ID] != own.attributes[INSTANCE_ID]
        if getattr(self._config.resource, "detection_development", None) is None:  # no detectors are named
            described = host_and_process(instance_id_given=self.instance_id_given).merge(described)
        self.resource = described

    def metrics(self) -> BuiltProvider:
        """Build the MeterProvider of the file, with request IDs on its exemplars."""
        config = self._config.meter_provider
        given = self._arguments.metrics
        if config is None and given is None:
            return BuiltProvider(None)
        if config is not None and given is not None:
            config.readers = []
        provider: MeterProvider = self._call(lambda: self._file.create_meter_provider(config, self.resource))
        atexit.unregister(provider.shutdown)
        has_filter = config is not None and config.exemplar_filter is not None
        replace_views(
            provider,
            lambda theirs: views(*theirs, *self._arguments.views),
            None if has_filter else exemplar_filter(),
        )
        if given is None:
            return BuiltProvider(provider, [provider])
        readers = metric_readers(self._settings, given)
        for reader in readers:
            try:
                provider.add_metric_reader(reader)
            except Exception as error:
                raise unusable("metric_readers", given, error) from error
        return BuiltProvider(provider, readers)

    def spans(self) -> BuiltProvider:
        """Build the TracerProvider of the file, with request IDs on its spans."""
        config = self._config.tracer_provider
        given = self._arguments.span_processors
        if config is None and given is None:
            return BuiltProvider(None)
        if config is not None and given is not None:
            config.processors = []
        limits = self._config.attribute_limits
        provider: TracerProvider = self._call(lambda: self._file.create_tracer_provider(config, self.resource, limits))
        atexit.unregister(provider.shutdown)
        for processor in (RequestIdSpanProcessor(), *(given or ())):
            provider.add_span_processor(processor)
        return BuiltProvider(provider, [provider] if given is None else given)

    def logs(self) -> BuiltProvider:
        """Build the LoggerProvider of the file, with request IDs on its log records."""
        config = self._config.logger_provider
        given = self._arguments.log_processors
        if config is None and given is None:
            return BuiltProvider(None)
        if config is not None and given is not None:
            config.processors = []
        limits = self._config.attribute_limits
        provider: LoggerProvider = self._call(lambda: self._file.create_logger_provider(config, self.resource, limits))
        atexit.unregister(provider.shutdown)
        put_first(provider, RequestIdLogRecordProcessor())
        for processor in given or ():
            provider.add_log_record_processor(processor)
        return BuiltProvider(provider, [provider] if given is None else given)

    def propagator(self) -> TextMapPropagator | None:
        """Build the propagator of the file; None where it names none."""
        config = self._config.propagator
        return None if config is None else self._call(lambda: self._file.create_propagator(config))

    def instrument(self) -> None:
        """Activate the instrumentations that the file names."""
        from opentelemetry.configuration.instrumentation import (  # pyright: ignore[reportMissingTypeStubs]
            configure_instrumentation,
        )

        configure_instrumentation(self._config.instrumentation_development)

    def _call(self, make: Callable[[], T]) -> T:
        try:
            with _logged_on_success():
                return make()
        except Exception as error:  # of the package itself, or of a plug-in
            raise self._problem(f"a file that can be used; this fails: {error}") from error

    def _problem(self, allowed: str) -> ConfigurationError:
        return ConfigurationError([Problem(_VARIABLE, shown(self._path), allowed)])


@contextmanager
def _logged_on_success() -> Generator[None]:
    """Hold back what the package logs, and drop it where the block raises an error, which says the same."""
    package = logging.getLogger("opentelemetry.configuration")
    records: list[logging.LogRecord] = []

    class Held(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    held = Held()
    propagates, package.propagate = package.propagate, False
    package.addHandler(held)
    try:
        yield
    except BaseException:
        records.clear()
        raise
    finally:
        package.removeHandler(held)
        package.propagate = propagates
        for record in records:
            logging.getLogger(record.name).handle(record)
