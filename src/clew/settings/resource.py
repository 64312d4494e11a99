"""The resource: the attributes of the process that sends (Resource SDK specification, conventions of `service`)."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk.resources import (
    OTELResourceDetector,
    Resource,
    ResourceDetector,
    get_aggregated_resources,
)
from opentelemetry.sdk.version import __version__ as sdk_version

from clew.any_value import nearest_value, text_of
from clew.settings import parsers
from clew.settings.problems import shown
from clew.settings.reader import InvalidValueError, SettingsReader

SERVICE_NAME = "service.name"
INSTANCE_ID = "service.instance.id"
HOST_NAME = "host.name"
PROCESS_ID = "process.pid"

_GROUP = "opentelemetry_resource_detector"
_DETECTORS = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"


class _FixedDetector(ResourceDetector):
    """A detector of attributes that are known already, so that they have a place among the others."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        super().__init__()
        self._attributes = attributes

    def detect(self) -> Resource:
        return Resource(dict(self._attributes))


def read_resource(reader: SettingsReader, argument: Resource | Mapping[str, Any] | None) -> tuple[Resource, bool]:
    """Build the resource; the second value tells whether the user chose ``service.instance.id``.

    From weak to strong: the SDK's own attributes, a new instance ID, `host_and_process` or the detectors that
    ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS`` names, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_SERVICE_NAME``, `argument`.
    """
    empty: dict[str, str] = {}
    from_environment = dict(reader.read("OTEL_RESOURCE_ATTRIBUTES", parsers.resource_attributes, empty))
    name = reader.text("OTEL_SERVICE_NAME")
    if name is not None:
        from_environment[SERVICE_NAME] = name
    instance_id = str(uuid.uuid4())
    resource = _detected(_detectors(reader, instance_id, from_environment))
    if argument is not None:
        resource = resource.merge(argument if isinstance(argument, Resource) else Resource(dict(argument)))
    if not resource.attributes.get(SERVICE_NAME):
        program = os.path.basename(sys.executable or "")
        unknown = f"unknown_service:{program}" if program else "unknown_service"
        resource = resource.merge(Resource({SERVICE_NAME: unknown}))
    instance_id_given = resource.attributes.get(INSTANCE_ID) != instance_id
    if not parsers.listed(reader.text(_DETECTORS) or ""):
        resource = host_and_process(instance_id_given=instance_id_given).merge(resource)
    return _encodable(resource), instance_id_given


def _encodable(resource: Resource) -> Resource:
    """Return a resource that can be encoded: bytes of the environment may not be text."""
    attributes = {text_of(name): nearest_value(value) for name, value in resource.attributes.items()}
    nearest = Resource(attributes, resource.schema_url)
    return resource if nearest == resource else nearest


def host_and_process(*, instance_id_given: bool) -> Resource:
    """Return ``host.name``, and ``process.pid`` where `clew` has made the instance ID.

    An instance ID of the user's own outlives a process: with a process ID its series would change with each start.
    """
    known: dict[str, str | int] = {} if instance_id_given else {PROCESS_ID: os.getpid()}
    with suppress(OSError):  # a host without a name that can be read
        known[HOST_NAME] = socket.gethostname()
    return Resource({name: value for name, value in known.items() if value != ""})


def identity_in_child(resource: Resource, *, instance_id_given: bool) -> Resource:
    """Return the attributes in which a forked child differs from its parent: ``service.instance.id``, ``process.pid``.

    The instance ID is a new one where `clew` made the parent's, otherwise the user's own with ``-PID`` added; the
    process ID is there where the parent has one beside an instance ID made by `clew`.
    """
    if instance_id_given:
        return Resource({INSTANCE_ID: f"{resource.attributes[INSTANCE_ID]!s}-{os.getpid()}"})
    own: dict[str, str | int] = {INSTANCE_ID: str(uuid.uuid4())}
    if isinstance(resource.attributes.get(PROCESS_ID), int):
        own[PROCESS_ID] = os.getpid()
    return Resource(own)


def _sdk_resource() -> Resource:
    return Resource(
        {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": sdk_version,
        }
    )


def _detected(detectors: Sequence[ResourceDetector]) -> Resource:
    if all(isinstance(detector, _FixedDetector) for detector in detectors):
        resource = _sdk_resource()
        for detector in detectors:
            resource = resource.merge(detector.detect())
        return resource
    return get_aggregated_resources(detectors, _sdk_resource())


def _detectors(
    reader: SettingsReader, instance_id: str, from_environment: Mapping[str, str]
) -> Sequence[ResourceDetector]:
    known = {
        "service_instance": _FixedDetector({INSTANCE_ID: instance_id}),
        "otel": _FixedDetector(from_environment),
    }
    named = parsers.listed(reader.text(_DETECTORS) or "")
    order = list(dict.fromkeys([*(() if "service_instance" in named else ("service_instance",)), *named, "otel"]))
    if order == list(known):
        return list(known.values())
    installed = {point.name: point for point in entry_points(group=_GROUP)}
    if "*" in order:
        place = order.index("*")
        order[place : place + 1] = sorted(set(installed) - set(order))
    detectors: list[ResourceDetector] = []
    for name in order:
        if name in known:
            detectors.append(known[name])
            continue
        try:
            detectors.append(_load(installed, name))
        except InvalidValueError as error:
            reader.add_problem(_DETECTORS, shown(name), str(error))
    return detectors


def _load(installed: Mapping[str, Any], name: str) -> ResourceDetector:
    if name not in installed:
        raise InvalidValueError(", ".join(["*", *sorted(installed)]))
    try:
        detector = installed[name].load()()
    except Exception as error:
        raise InvalidValueError(f"a detector that can be loaded (this one fails: {error!r})") from error
    if not isinstance(detector, ResourceDetector) or isinstance(detector, OTELResourceDetector):
        raise InvalidValueError("the name of a resource detector")
    return detector
