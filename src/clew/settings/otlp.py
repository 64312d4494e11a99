"""The settings of the OTLP exporters, one set for each signal (OpenTelemetry Protocol Exporter specification)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from clew.settings import parsers
from clew.settings.problems import masked_pairs, masked_url, shown
from clew.settings.reader import InvalidValueError, SettingsReader

Signal = Literal["metrics", "traces", "logs"]
GRPC = "grpc"
HTTP = "http/protobuf"
MAX_EXPORT_BYTES = 3_000_000
"""The length of a request by default: by default receivers over gRPC refuse what is over 4 MiB."""
CREDENTIAL_PROVIDERS = "opentelemetry_otlp_credential_provider"

_SECONDS_BELOW = 100
"""A timeout in milliseconds under this is one that was meant in seconds."""

_URL = "a URL http(s)://host[:port][/path]"
_TARGET = "a URL http(s)://host[:port], or host:port, or another target of gRPC such as unix:/path or dns:///host:port"
_GRPC_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:")
_BARE_TARGET = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """How one signal gets to its endpoint.

    `endpoint` is the whole URL over HTTP (the signal's path included), and what gRPC calls a target over gRPC.
    `timeout` is in seconds, for one export with all its retries; infinity is no limit. `credential_provider` is the
    name of an entry point of ``opentelemetry_otlp_credential_provider``. What is longer than `max_export_bytes` goes in
    several requests.
    """

    signal: Signal
    protocol: str
    endpoint: str
    insecure: bool
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    timeout: float = 10.0
    compression: str = "none"
    credential_provider: str | None = None
    max_export_bytes: int = MAX_EXPORT_BYTES

    @property
    def label(self) -> str:
        """The endpoint for a message, without the user, password and query that may stand in it."""
        return masked_url(self.endpoint)[1:-1]


def otlp_settings(
    reader: SettingsReader, signal: Signal, protocol: str | None = None, max_export_bytes: int = MAX_EXPORT_BYTES
) -> OtlpSettings:
    """Read one signal's settings: its own variables win over the general ones. `protocol` given is not read."""

    def names(ending: str) -> tuple[str, str]:
        return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{ending}", f"OTEL_EXPORTER_OTLP_{ending}"

    if protocol is None:
        protocol = reader.read(names("PROTOCOL"), parsers.one_of(GRPC, HTTP), "") or None
    own, general = names("ENDPOINT")
    for name in (own, general):
        value = reader.text(name)
        if value is None:
            continue
        spoken = protocol or (GRPC if _port(value) == 4317 else HTTP)
        try:
            if spoken == GRPC:
                endpoint, insecure = _grpc_target(value)
            else:
                endpoint, insecure = _http_url(value, None if name == own else signal)
        except InvalidValueError as error:
            reader.add_problem(name, masked_url(value), str(error))
            continue
        break
    else:
        spoken = protocol or HTTP
        insecure = True
        endpoint = "localhost:4317" if spoken == GRPC else f"http://localhost:4318/v1/{signal}"
    asked_insecure = reader.read(names("INSECURE"), parsers.boolean, False)
    if insecure is None:
        insecure = asked_insecure
    certificate, client_key, client_certificate = (
        reader.read(names(ending), _pem_file, None) for ending in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    )
    if client_key and not client_certificate:
        name = next(name for name in names("CLIENT_KEY") if reader.text(name))
        reader.add_problem(name, shown(client_key), "a client key together with a client certificate")
        client_key = None
    kind = "GRPC" if spoken == GRPC else "HTTP"
    providers = [f"OTEL_PYTHON_EXPORTER_OTLP_{kind}_{part}CREDENTIAL_PROVIDER" for part in (f"{signal.upper()}_", "")]
    return OtlpSettings(
        signal=signal,
        protocol=spoken,
        endpoint=endpoint,
        insecure=insecure,
        headers=reader.read(names("HEADERS"), parsers.headers, (), show=masked_pairs),
        certificate=certificate,
        client_key=client_key,
        client_certificate=client_certificate,
        timeout=_timeout(reader, names("TIMEOUT")),
        compression=reader.read(names("COMPRESSION"), parsers.one_of("none", "gzip", "deflate"), "none"),
        credential_provider=reader.read(providers, _credential_provider, None),
        max_export_bytes=max_export_bytes,
    )


def _timeout(reader: SettingsReader, names: tuple[str, str]) -> float:
    """Milliseconds by the specification, but under 100 they are seconds, as the Python exporters read them."""

    def parser(name: str) -> Callable[[str], float]:
        def parse(text: str) -> float:
            try:
                number = parsers.decimal(0, parsers.MOST)(text)
            except InvalidValueError:
                number = math.nan
            if 0 < number < _SECONDS_BELOW:
                reader.add_note(
                    f"{name}={text} is taken for {number:g} seconds; the specification's unit is the millisecond, "
                    f"so {number * 1000:g} says the same without this line"
                )
                return number
            return parsers.timeout(text)

        return parse

    own, general = names
    return reader.read(own, parser(own), 0.0) or reader.read(general, parser(general), 10.0)


def _port(value: str) -> int | None:
    try:
        return urlsplit(value if "://" in value else f"//{value}").port
    except ValueError:
        return None


def _http_url(value: str, signal: Signal | None) -> tuple[str, bool | None]:
    """Check the URL; with a `signal` given, its path is added, as a general endpoint wants it."""
    try:
        url = urlsplit(value)
        is_valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        raise InvalidValueError(_URL) from None
    if not is_valid or any(not "!" <= letter <= "~" for letter in value) or url.fragment:
        raise InvalidValueError(_URL)
    if signal is not None:
        url = url._replace(path=f"{url.path.rstrip('/')}/v1/{signal}")
    return urlunsplit(url), url.scheme == "http"


def _grpc_target(value: str) -> tuple[str, bool | None]:
    """Return the target, and whether it is insecure: None where the endpoint has no scheme that says so."""
    if value.startswith(_GRPC_SCHEMES) and all("!" <= letter <= "~" for letter in value):
        return value, None
    if "://" in value:
        url, insecure = _http_url(value, None)
        parts = urlsplit(url)
        if parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
            raise InvalidValueError(f"{_TARGET}; over gRPC there is no path, and a password goes into the headers")
        return parts.netloc, insecure
    match = _BARE_TARGET.fullmatch(value)
    if not match or (match["port"] and not 1 <= int(match["port"]) <= 65535):
        raise InvalidValueError(_TARGET)
    return value, None


def _credential_provider(name: str) -> str | None:
    installed = sorted(point.name for point in entry_points(group=CREDENTIAL_PROVIDERS))
    if name not in installed:
        raise InvalidValueError(", ".join(installed) or f"an entry point of {CREDENTIAL_PROVIDERS}; none is installed")
    return name


def _pem_file(path: str) -> str | None:
    """Check that a file is there, may be read, and holds what a certificate or a key begins with."""
    try:
        with open(path, "rb") as file:
            content = file.read(1_000_000)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidValueError(f"a file that can be read ({reason})") from None
    if b"-----BEGIN " not in content:
        raise InvalidValueError("a file in PEM format (there is no -----BEGIN in it)")
    return path
