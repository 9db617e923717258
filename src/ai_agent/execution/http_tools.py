"""Tools of kind `http`: a request through the outbound guard. The library is imported by the first call."""

import codecs
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from ai_agent.domain.errors import InvalidFields
from ai_agent.domain.fields import MAX_DEPTH, depth
from ai_agent.domain.http_tools import HttpConfig, Unfillable, filled_body, filled_url, header_field
from ai_agent.domain.tool_calls import MAX_OUTPUT_BYTES
from ai_agent.domain.tools import ToolSpec
from ai_agent.execution.tools import Call, Operation, ToolFailed, ToolUnavailable
from ai_agent.security.outbound import OutboundGuard, OutboundRefused
from ai_agent.security.secret_box import UnreadableSecret
from ai_agent.security.secret_fields import SecretFields

if TYPE_CHECKING:
    import httpx2

ERROR_LENGTH = 2000
"""Characters of an error's body that a model hears."""

# Those that are decoded in one pass: some that Python knows besides take minutes for what fits here.
_CHARSETS = frozenset(
    {
        *("ascii", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso8859-1", "iso8859-15", "cp1252"),
        *("cp1251", "koi8-r", "shift_jis", "euc_jp", "gb2312", "gbk", "gb18030", "big5", "euc_kr"),
    }
)

log = structlog.get_logger()


class HttpTools:
    def __init__(self, guard: OutboundGuard, secrets: SecretFields):
        self._guard = guard
        self._secrets = secrets

    def operation(self, spec: ToolSpec) -> Operation | None:
        try:
            return partial(self._send, spec, msgspec.convert(spec.config, HttpConfig))
        except (msgspec.ValidationError, InvalidFields):  # Written by another release.
            return None

    async def _send(self, spec: ToolSpec, config: HttpConfig, call: Call) -> Any:
        import httpx2

        try:
            url, body = filled_url(config.url, call.arguments), filled_body(config.body, call.arguments)
        except Unfillable as error:
            raise ToolFailed(str(error)) from error
        try:
            return await self._answer(config.method, url, self._headers(spec, config), body)
        except httpx2.ConnectTimeout as error:
            raise ToolUnavailable("No connection in time") from error
        except OutboundRefused as error:
            raise ToolFailed(str(error)) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ToolUnavailable(f"No connection, or it broke: {type(error).__name__}") from error

    async def _answer(self, method: str, url: str, headers: dict[str, str], body: Any) -> Any:
        import httpx2

        from ai_agent.security.outbound_http import guarded_client

        if body is not None:
            headers = {"content-type": "application/json"} | headers
        content = None if body is None else msgspec.json.encode(body)
        # A client for each call: cookies of a server are not for the next one. The call has its time as a whole.
        async with (
            guarded_client(self._guard, max_bytes=2 * MAX_OUTPUT_BYTES, timeout=httpx2.Timeout(None)) as http,
            http.stream(method, url, headers=headers, content=content) as answer,
        ):
            return _output(answer, await _beginning(answer))

    def _headers(self, spec: ToolSpec, config: HttpConfig) -> dict[str, str]:
        assert spec.id is not None  # noqa: S101  # only builtin tools have no row
        try:
            opened = {n: self._secrets.open(spec.id, spec.secrets, header_field(n)) for n in config.headers}
        except UnreadableSecret as error:
            log.warning("tool_secret_unreadable", tool=spec.name, tool_id=str(spec.id))
            raise ToolFailed("The secrets of this tool cannot be read: they have to be written again") from error
        return {name.lower(): value for name, value in opened.items() if value is not None}


async def _beginning(answer: "httpx2.Response") -> bytes:
    """The body; of a longer one than is kept, what shows that it is longer."""
    content = bytearray()
    async with aclosing(answer.aiter_raw()) as parts:
        async for part in parts:
            content += part
            if len(content) > MAX_OUTPUT_BYTES:
                break
    return bytes(content)


def _output(answer: "httpx2.Response", content: bytes) -> Any:
    """JSON as its value, text as text. Raises ToolFailed for all else."""
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = _text(content, answer.charset_encoding)
    if answer.status_code >= 400:
        failed = ToolUnavailable if answer.status_code >= 500 else ToolFailed
        said = f": {text[:ERROR_LENGTH]}" if text else ""
        raise failed(f"The server answered {answer.status_code}{said}")
    if not answer.is_success:
        raise ToolFailed(f"The server answered {answer.status_code}; redirects are not followed")
    if not content:
        return {"status": answer.status_code}
    if text is None:
        raise ToolFailed(f"The server answered with {media_type[:100] or 'bytes'}, which is no text")
    return _json(text) if media_type.endswith(("/json", "+json")) else text


def _text(content: bytes, charset: str | None) -> str | None:
    """None for what is no text. A character that was cut in the middle is left out."""
    try:
        codec = codecs.lookup(charset or "utf-8-sig")
    except LookupError:
        codec = codecs.lookup("utf-8-sig")
    if codec.name not in _CHARSETS or codec.incrementaldecoder is None:
        return None
    try:
        text = codec.incrementaldecoder().decode(content, final=len(content) <= MAX_OUTPUT_BYTES)
    except UnicodeError:
        return None
    return None if "\0" in text else text


def _json(text: str) -> Any:
    """The value; the text where it is none, or one that is nested deeper than others could read."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text
    return value if depth(value) <= MAX_DEPTH else text
