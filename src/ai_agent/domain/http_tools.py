"""Tools of kind `http`: a request whose address and body are templates of the arguments. Nothing is sent here.

`{name}` stands for an argument. In the address it is percent-encoded, and only behind the host. In the body a string
that is `{name}` alone becomes the argument's JSON value; in a longer one it becomes text. A query parameter, a member
or an item whose argument is absent is left out.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.fields import Input, JsonObject, JsonValue
from ai_agent.domain.validation import field_errors

MAX_TIMEOUT = 120.0
MOST_HEADERS = 32
BODY_BYTES = 64 * 1024
ADDRESS_LENGTH = 8192
_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.-]{1,64})\}")
_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*|[^/?#]*")
# Source: RFC 9110, 5.6.2 (token) and 5.5 (field-content, of ASCII only).
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]{0,4094}[\x21-\x7e])?")
_OURS = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "accept-encoding", "connection", "keep-alive", "upgrade"),
        *("te", "trailer", "expect", "proxy-authorization", "proxy-connection"),
    }
)


class HttpMethod(StrEnum):
    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


IDEMPOTENT = frozenset({HttpMethod.GET, HttpMethod.HEAD, HttpMethod.PUT, HttpMethod.DELETE})
"""May be sent again when nobody knows what came of the first time. Source: RFC 9110, 9.2.2."""
_WITHOUT_BODY = frozenset({HttpMethod.GET, HttpMethod.HEAD})


class Unfillable(Exception):
    """Arguments that make no request of a template. The message is for whoever gave them."""


class HttpConfig(Input):
    """What is sent, where. Values of `headers` are secrets; `body` is JSON, null for none; the time is in seconds."""

    method: HttpMethod
    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    headers: dict[str, str] = {}
    body: JsonValue = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT)] | None = None

    def check(self) -> list[FieldError]:
        return [*self._url_faults(), *_header_faults(self.headers), *self._body_faults()]

    def _url_faults(self) -> Iterator[FieldError]:
        if "{" in self.origin or "}" in self.origin:
            yield FieldError("url", "No argument may stand in the scheme, host or port")
        elif "{" in (rest := _PLACEHOLDER.sub("", self.url)) or "}" in rest:
            yield FieldError("url", "Braces may only stand around the name of an argument: letters, digits, _ . -")
        elif _has_dot_segments(self.url):
            yield FieldError("url", "Must have no segments . and ..")

    def _body_faults(self) -> Iterator[FieldError]:
        if self.body is not None and self.method in _WITHOUT_BODY:
            yield FieldError("body", f"A {self.method} request has none")
        if len(msgspec.json.encode(self.body)) > BODY_BYTES:
            yield FieldError("body", f"Is longer than {BODY_BYTES} bytes as JSON")

    @property
    def origin(self) -> str:
        """Scheme, host and port: where the secrets go."""
        match = _ORIGIN.match(self.url)
        return match[0].lower() if match else ""

    def names(self) -> Iterator[tuple[str, str]]:
        """Each argument that a template names, behind the field that does."""
        yield from (("url", name) for name in _PLACEHOLDER.findall(self.url))
        yield from (("body", name) for name in _names_in(self.body))


def header_field(name: str) -> str:
    """The field of a tool that holds a header's secret value."""
    return f"config.headers.{name}"


def check_http(config: JsonObject, schema: JsonObject | None) -> list[FieldError]:
    """What is wrong with the settings of an `http` tool whose arguments have this schema."""
    try:
        read = msgspec.convert(config, HttpConfig)
    except (msgspec.ValidationError, InvalidFields):
        return [_without_secret(error) for error in field_errors(config, HttpConfig, "config")]
    known = (schema or {}).get("properties")
    properties = known if isinstance(known, dict) else {}
    unknown = dict.fromkeys((field, name) for field, name in read.names() if name not in properties)
    return [FieldError(f"config.{field}", f"{name} is no property of the schema") for field, name in unknown]


def _without_secret(error: FieldError) -> FieldError:
    inside = error.field.startswith("config.headers")
    return FieldError(error.field, error.message) if inside else error


def _header_faults(headers: dict[str, str]) -> Iterator[FieldError]:
    if len(headers) > MOST_HEADERS:
        yield FieldError("headers", f"Has more than {MOST_HEADERS} members")
    seen: set[str] = set()
    for name, value in headers.items():
        field, lower = f"headers.{name[:64]}", name.lower()
        if not _HEADER_NAME.fullmatch(name):
            yield FieldError(field, "Is no name of a header")
        elif lower in _OURS:
            yield FieldError(field, "Is set by the server")
        elif lower in seen:
            yield FieldError(field, "Is there twice: case makes no difference")
        elif not _HEADER_VALUE.fullmatch(value):
            yield FieldError(
                field, "Must be 1 to 4096 characters of ASCII in one line, with no white space around them"
            )
        seen.add(lower)


def filled_url(template: str, arguments: JsonObject) -> str:
    """The address for these arguments. Raises Unfillable."""
    path, _, query = template.partition("?")
    given = _PLACEHOLDER.sub(lambda match: _segment(match[1], arguments), path)
    if _has_dot_segments(given):
        raise Unfillable("An argument would make a segment . or .. of the address's path")
    pairs = [pair for pair in query.split("&") if all(name in arguments for name in _PLACEHOLDER.findall(pair))]
    if kept := "&".join(pairs):
        given += "?" + _PLACEHOLDER.sub(lambda match: quote(_text(arguments[match[1]]), safe=""), kept)
    if len(given) > ADDRESS_LENGTH:
        raise Unfillable(f"The address would be longer than {ADDRESS_LENGTH} characters")
    return given


def _segment(name: str, arguments: JsonObject) -> str:
    """An argument in the path, where nothing at all would name another resource, such as the list of all."""
    text = _text(arguments.get(name))
    if not text:
        raise Unfillable(f"{name} is a part of the address's path and must not be empty")
    return quote(text, safe="")


def filled_body(template: Any, arguments: JsonObject) -> Any:
    """The JSON value for these arguments; None when there is none."""
    if isinstance(template, dict):
        return {
            name: filled_body(value, arguments) for name, value in template.items() if not _is_absent(value, arguments)
        }
    if isinstance(template, list):
        return [filled_body(item, arguments) for item in template if not _is_absent(item, arguments)]
    if not isinstance(template, str):
        return template
    if whole := _PLACEHOLDER.fullmatch(template):
        return arguments.get(whole[1])
    return _PLACEHOLDER.sub(lambda match: _text(arguments.get(match[1])), template)


def _is_absent(template: Any, arguments: JsonObject) -> bool:
    whole = _PLACEHOLDER.fullmatch(template) if isinstance(template, str) else None
    return whole is not None and whole[1] not in arguments


def _text(value: Any) -> str:
    """An argument among other text: strings as they are, nothing for null, all else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _names_in(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield from _PLACEHOLDER.findall(template)
    elif isinstance(template, dict | list):
        for child in template.values() if isinstance(template, dict) else template:
            yield from _names_in(child)


def _has_dot_segments(url: str) -> bool:
    """Whether a client or a server would read another path than is written."""
    segments = url.partition("?")[0].lower().replace("%2e", ".").split("/")
    return not {".", ".."}.isdisjoint(segments)
