"""HTTP tools: what becomes of templates, of what servers answer, and of those who want to be led astray."""

import asyncio
import gzip
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.domain.fields import to_json
from ai_agent.domain.http_tools import HttpConfig, Unfillable, check_http, filled_body, filled_url, header_field
from ai_agent.domain.tool_calls import MAX_OUTPUT_BYTES
from ai_agent.domain.tools import ToolKind, ToolSpec
from ai_agent.execution.breaker import FAILURES
from ai_agent.execution.http_tools import HttpTools
from ai_agent.execution.tools import Call, Outcome, Toolbox, perform
from ai_agent.observability.tool_metrics import CALLS
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import SecretBox
from ai_agent.security.secret_fields import NO_SECRETS, SecretFields
from tests.http_peer import Peer, answers, resets, says
from tests.unit.test_outbound import (
    INSIDE,
    LOOPBACK,
    LOOPBACK_SPELLINGS,
    answering,
    canary,
    connections,
    port_of,
    was_reached,
)

__all__ = ["canary"]

SECRETS = SecretFields(SecretBox("s" * 40), "tools")
NAMES = ("a", "b", "c")
SCHEMA = {"type": "object", "properties": {name: {} for name in NAMES}}


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    started = Peer()
    yield started
    started.close()


def toolbox(guard: OutboundGuard | None = None) -> Toolbox:
    return Toolbox({ToolKind.HTTP: HttpTools(guard or OutboundGuard([LOOPBACK]), SECRETS)})


def http_tool(url: str, method: str = "GET", headers: dict[str, str] | None = None, **config: Any) -> ToolSpec:
    tool_id = uuid4()
    sealed = SECRETS.seal(tool_id, {header_field(n): v for n, v in (headers or {}).items()}, NO_SECRETS)
    shown = dict.fromkeys(headers or {}, "***")
    return ToolSpec(
        "tool",
        ToolKind.HTTP,
        schema=SCHEMA,
        id=tool_id,
        config={"method": method, "url": url, "headers": shown, **config},
        secrets=sealed,
        timeout_seconds=config.get("timeout_seconds", 5),
    )


async def calling(spec: ToolSpec, box: Toolbox | None = None, **arguments: Any) -> Outcome:
    tool = (box or toolbox()).tool(spec)
    assert tool is not None
    return await perform(tool, Call(arguments, "owner"))


def called(spec: ToolSpec, box: Toolbox | None = None, **arguments: Any) -> Outcome:
    return asyncio.run(calling(spec, box, **arguments))


def failed(spec: ToolSpec, box: Toolbox | None = None, **arguments: Any) -> str:
    outcome = called(spec, box, **arguments)
    assert outcome.is_error, outcome
    return str(outcome.output)


# Templates


@pytest.mark.parametrize(
    ("template", "arguments", "url"),
    [
        ("https://e.com/{a}/x", {"a": "b c"}, "https://e.com/b%20c/x"),
        ("https://e.com/{a}", {"a": "../../etc"}, "https://e.com/..%2F..%2Fetc"),
        ("https://e.com/{a}", {"a": "x?y=1#z&é"}, "https://e.com/x%3Fy%3D1%23z%26%C3%A9"),
        ("https://e.com/{a}", {"a": "%2e%2e"}, "https://e.com/%252e%252e"),
        ("https://e.com/{a}-{b}", {"a": 1, "b": True}, "https://e.com/1-true"),
        ("https://e.com/?q={a}&n={b}", {"a": "x&n=2", "b": 1.5}, "https://e.com/?q=x%26n%3D2&n=1.5"),
        ("https://e.com/?q={a}&n={b}&k=1", {"b": 2}, "https://e.com/?n=2&k=1"),
        ("https://e.com/?q={a}", {}, "https://e.com/"),
        ("https://e.com/?q={a}", {"a": None}, "https://e.com/?q="),
        ("https://e.com/?q={a}", {"a": ["x", {"y": 1}]}, "https://e.com/?q=%5B%22x%22%2C%7B%22y%22%3A1%7D%5D"),
        ("https://e.com/?q={a}", {"a": "{b}", "b": "no"}, "https://e.com/?q=%7Bb%7D"),
        ("https://e.com/?q={a}", {"a": "x\r\nHost: evil"}, "https://e.com/?q=x%0D%0AHost%3A%20evil"),
        ("https://e.com/%20x?a={a}", {"a": "@evil.com/"}, "https://e.com/%20x?a=%40evil.com%2F"),
    ],
)
def test_arguments_are_encoded_where_they_stand_in_an_address(
    template: str, arguments: dict[str, Any], url: str
) -> None:
    assert filled_url(template, arguments) == url


@pytest.mark.parametrize(
    ("template", "arguments", "why"),
    [
        ("https://e.com/{a}", {"a": ".."}, "segment"),
        ("https://e.com/{a}{b}/x", {"a": ".", "b": "."}, "segment"),
        ("https://e.com/users/{a}", {"a": ""}, "must not be empty"),
        ("https://e.com/users/{a}", {"a": None}, "must not be empty"),
        ("https://e.com/users/{a}", {}, "must not be empty"),
        ("https://e.com/?q={a}", {"a": "x" * 9000}, "longer than"),
    ],
)
def test_no_argument_names_another_resource(template: str, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(Unfillable, match=why):
        filled_url(template, arguments)


@given(st.text())
def test_no_text_leaves_its_place_in_an_address(text: str) -> None:
    try:
        url = filled_url("https://e.com/v1/{a}/end?q={a}&k=1", {"a": text})
    except Unfillable:
        assert text in ("", ".", "..")
        return
    assert url.startswith("https://e.com/v1/")
    path, _, query = url.partition("?")
    assert (path.count("/"), query.count("&"), query.count("="), url.count("#")) == (5, 1, 2, 0)
    assert url.isascii()
    assert url.isprintable()


@pytest.mark.parametrize(
    ("template", "arguments", "body"),
    [
        ({"x": "{a}"}, {"a": {"deep": [1, None]}}, {"x": {"deep": [1, None]}}),
        ({"x": "{a}"}, {"a": None}, {"x": None}),
        ({"x": "{a}", "y": 1}, {}, {"y": 1}),
        ({"x": ["{a}", "{b}", 3]}, {"b": 2}, {"x": [2, 3]}),
        ({"x": "Hi {a}, {b}!"}, {"a": "Ann", "b": 2}, {"x": "Hi Ann, 2!"}),
        ({"x": "Hi {a}!"}, {}, {"x": "Hi !"}),
        ({"x": "{ a }{}"}, {"a": 1}, {"x": "{ a }{}"}),
        ({"{a}": "{a}"}, {"a": '"}'}, {"{a}": '"}'}),
        ({"x": "{a}"}, {"a": "{b}", "b": "no"}, {"x": "{b}"}),
        ("{a}", {"a": [1]}, [1]),
        ("{a}", {}, None),
        (True, {}, True),
    ],
)
def test_arguments_are_values_in_a_body_and_text_in_text(template: Any, arguments: dict[str, Any], body: Any) -> None:
    assert filled_body(template, arguments) == body


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"method": "GET"}, "config.url"),
        ({"method": "TRACE", "url": "https://e.com"}, "config.method"),
        ({"url": "https://e.com"}, "config.method"),
        ({"url": "https://{a}.e.com/"}, "config.url"),
        ({"url": "https://e.com:{a}/"}, "config.url"),
        ({"url": "{a}://e.com/"}, "config.url"),
        ({"url": "{a}"}, "config.url"),
        ({"url": "https://e.com{a}"}, "config.url"),
        ({"url": "https://e.com/{a"}, "config.url"),
        ({"url": "https://e.com/{a b}"}, "config.url"),
        ({"url": "https://e.com/{}"}, "config.url"),
        ({"url": "https://e.com/../{a}"}, "config.url"),
        ({"url": "https://e.com/%2E%2e/{a}"}, "config.url"),
        ({"url": "https://e.com/{d}"}, "config.url"),
        ({"method": "POST", "body": {"x": ["{d}"]}}, "config.body"),
        ({"method": "HEAD", "body": {}}, "config.body"),
        ({"method": "POST", "body": "x" * 70_000}, "config.body"),
        ({"timeout_seconds": 0}, "config.timeout_seconds"),
        ({"timeout_seconds": 121}, "config.timeout_seconds"),
        ({"cookies": {}}, "config.cookies"),
        ({"headers": {"X": "a\r\nHost: evil"}}, "config.headers.X"),
        ({"headers": {"X": "a\nb"}}, "config.headers.X"),
        ({"headers": {"X": " a"}}, "config.headers.X"),
        ({"headers": {"X": ""}}, "config.headers.X"),
        ({"headers": {"X": "é"}}, "config.headers.X"),
        ({"headers": {"X": "a" * 4097}}, "config.headers.X"),
        ({"headers": {"X\r\nY": "a"}}, "config.headers.X\r\nY"),
        ({"headers": {"X Y": "a"}}, "config.headers.X Y"),
        ({"headers": {"Host": "evil"}}, "config.headers.Host"),
        ({"headers": {"transfer-encoding": "chunked"}}, "config.headers.transfer-encoding"),
        ({"headers": {"Accept": "a", "accept": "b"}}, "config.headers.accept"),
        ({"headers": {f"X-{n}": "a" for n in range(33)}}, "config.headers"),
    ],
)
def test_settings_that_nobody_could_use_are_refused_by_name(config: dict[str, Any], field: str) -> None:
    whole = {"method": "GET", "url": "https://e.com/{a}"} | config
    whole = {name: value for name, value in whole.items() if name in config or field != f"config.{name}"}
    errors = check_http(whole, SCHEMA)
    assert [error.field for error in errors] == [field]
    assert all("evil" not in str(error.value) for error in errors)


def test_all_that_a_request_may_have_is_accepted() -> None:
    headers = {"Authorization": "Bearer x\ty", "Accept": "a" * 4096, "x-y_z": "!"}
    config = {"method": "PATCH", "url": "https://e.com/{a}?b={b}", "headers": headers, "body": {"x": "{c}"}}
    assert check_http(config | {"timeout_seconds": 120}, SCHEMA) == []


@pytest.mark.parametrize("config", [{}, {"method": "GET", "url": "https://e.com/../"}, {"method": "GET", "later": 1}])
def test_settings_of_another_release_are_no_tool_and_break_nothing(config: dict[str, Any]) -> None:
    assert toolbox().tool(ToolSpec("tool", ToolKind.HTTP, id=uuid4(), config=config)) is None


# What is sent


def test_a_request_is_sent_as_it_was_written(peer: Peer) -> None:
    url = peer.at("/sent/a%20b", answers({"ok": True}))
    assert url.endswith("/sent/a%20b")
    spec = http_tool(
        f"{peer.url}/sent/{{a}}?q={{b}}", "POST", {"X-Key": "k", "Accept": "text/x"}, body={"n": "{c}", "t": "Hi {a}"}
    )
    outcome = called(spec, a="a b", b="é", c=[1])
    assert (outcome.output, outcome.is_error, outcome.truncated) == ({"ok": True}, False, False)
    got = peer.got("/sent/a%20b")[0]
    assert (got.method, got.target) == ("POST", "/sent/a%20b?q=%C3%A9")
    assert msgspec.json.decode(got.body) == {"n": [1], "t": "Hi a b"}
    expected = {"x-key": "k", "accept": "text/x", "content-type": "application/json", "accept-encoding": "identity"}
    assert {name: got.headers[name] for name in expected} == expected
    assert got.headers["host"] == f"127.0.0.1:{peer.port}"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_each_method_is_sent(peer: Peer, method: str) -> None:
    peer.at("/method", answers("" if method == "HEAD" else "fine"))
    outcome = called(http_tool(f"{peer.url}/method", method))
    assert outcome.output == ({"status": 200} if method == "HEAD" else "fine")
    got = peer.got("/method")[-1]
    assert (got.method, got.body) == (method, b"")
    assert "content-type" not in got.headers


def test_cookies_of_a_server_are_not_for_the_next_call(peer: Peer) -> None:
    peer.at("/cookies", answers("x", set_cookie="session=1; Path=/"))
    box, spec = toolbox(), http_tool(f"{peer.url}/cookies")
    for _ in range(2):
        assert called(spec, box).output == "x"
    assert [got.headers.get("cookie") for got in peer.got("/cookies")] == [None, None]


def test_secrets_that_no_key_opens_are_a_failed_tool(peer: Peer) -> None:
    spec = http_tool(f"{peer.url}/unread", headers={"X-Key": "k"})
    other = SecretFields(SecretBox("t" * 40), "tools")
    box = Toolbox({ToolKind.HTTP: HttpTools(OutboundGuard([LOOPBACK]), other)})
    assert "cannot be read" in failed(spec, box)
    moved = msgspec.structs.replace(spec, id=uuid4())
    assert "cannot be read" in failed(moved)
    assert peer.got("/unread") == []


# What is answered


@pytest.mark.parametrize(
    ("does", "output"),
    [
        (answers({"a": [1, None, "é"]}), {"a": [1, None, "é"]}),
        (answers("[1]", content_type="application/vnd.api+json; charset=utf-8"), [1]),
        (answers("{broken", content_type="application/json"), "{broken"),
        (answers("[" * 200_000, content_type="application/json"), "[" * 200_000),
        (answers("[" * 65 + "]" * 65, content_type="application/json"), "[" * 65 + "]" * 65),
        (answers("1" * 5000, content_type="application/json"), "1" * 5000),
        (answers("1e999", content_type="application/json"), "1e999"),
        (answers("[1]"), "[1]"),
        (answers("<b>é</b>", content_type="text/html"), "<b>é</b>"),
        (answers("é".encode("latin-1"), content_type="text/plain; charset=ISO-8859-1"), "é"),
        (answers("日本".encode("shift_jis"), content_type="text/plain; charset=Shift_JIS"), "日本"),
        (answers(b"\xef\xbb\xbf[1]", content_type="application/json"), [1]),
        (answers(b"plain", content_type="text/plain; charset=nonsense"), "plain"),
        (answers(b"plain"), "plain"),
        (answers(b"", 204), {"status": 204}),
        (says(b"HTTP/1.1 200 OK\r\n\r\nto the end"), "to the end"),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "ok"),
    ],
)
def test_json_becomes_its_value_and_text_stays_text(peer: Peer, does: Any, output: Any) -> None:
    outcome = called(http_tool(peer.at("/output", does)))
    assert (outcome.output, outcome.is_error, outcome.truncated) == (output, False, False)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (answers(b"\x89PNG\r\n\x1a\n\0", content_type="image/png"), "answered with image/png, which is no text"),
        (answers(b"a\0b", content_type="text/plain"), "answered with text/plain, which is no text"),
        (answers(b"abcd", content_type="text/plain; charset=utf-16"), "answered with text/plain, which is no text"),
        (answers(b"\xff\xfe\xfd"), "answered with application/octet-stream, which is no text"),
        (answers(b"\xff", content_type=""), "answered with bytes, which is no text"),
        (answers("x", content_type="text/plain; charset=punycode"), "answered with text/plain, which is no text"),
        (answers("No such city", 404), "The server answered 404: No such city"),
        (answers({"why": "é"}, 422), 'The server answered 422: {"why": "\\u00e9"}'),
        (answers("x" * 5000, 500), "The server answered 500: " + "x" * 2000),
        (answers(b"\0", 500), "The server answered 500"),
        (answers(b"", 302, location="http://169.254.169.254/"), "answered 302; redirects are not followed"),
        (resets, "No connection, or it broke: "),
        (says(b""), "No connection, or it broke: RemoteProtocolError"),
        (says(b"\0\1\2 garbage\r\n\r\n"), "No connection, or it broke: RemoteProtocolError"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut"), "No connection, or it broke: RemoteProtocolError"),
        (says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"), "No connection, or it broke: Rem"),
        (answers(gzip.compress(b"\0" * 100_000_000), content_encoding="gzip"), "compressed its answer"),
    ],
)
def test_what_a_server_does_wrong_is_a_failed_tool_that_says_what(peer: Peer, does: Any, words: str) -> None:
    begun = time.monotonic()
    output = failed(http_tool(peer.at("/wrong", does)))
    assert words in output
    assert len(output) < 2100
    assert time.monotonic() - begun < 2


def test_a_server_that_is_not_there_is_a_failed_tool() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = port_of(closed)
    assert failed(http_tool(f"http://127.0.0.1:{port}/")) == "No connection, or it broke: ConnectError"


def test_a_hundred_megabytes_are_left_after_a_quarter_of_one(peer: Peer) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 104857600\r\n\r\n"
    outcome = called(http_tool(peer.pours("/pour", 100 * 1024**2, head)))
    assert (outcome.is_error, outcome.truncated) == (False, True)
    assert outcome.output.endswith("[cut: the output was longer than 262144 bytes]")
    assert len(msgspec.json.encode(outcome.output)) <= MAX_OUTPUT_BYTES
    assert len(outcome.output) > 250_000
    assert peer.sent["/pour"] < 10 * 1024**2  # What the system holds between the two.


@pytest.mark.parametrize(("size", "truncated"), [(MAX_OUTPUT_BYTES - 2, False), (MAX_OUTPUT_BYTES - 1, True)])
def test_an_output_has_a_size(peer: Peer, size: int, truncated: bool) -> None:
    outcome = called(http_tool(peer.at("/size", answers("x" * size))))
    assert (outcome.is_error, outcome.truncated) == (False, truncated)


def test_a_character_that_is_cut_in_the_middle_is_left_out(peer: Peer) -> None:
    outcome = called(http_tool(peer.at("/middle", answers("x" + "é" * MAX_OUTPUT_BYTES))))
    assert outcome.truncated
    assert set(outcome.output.partition("\n")[0]) == {"x", "é"}


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
def test_a_server_that_hangs_costs_the_tools_own_time(peer: Peer, first: bytes) -> None:
    path = f"/hang{len(first)}"
    begun = time.monotonic()
    assert failed(http_tool(peer.hangs(path, first), timeout_seconds=0.3)) == "The tool took longer than 0.3 s"
    assert time.monotonic() - begun < 1
    assert peer.was_left(path)


def test_a_call_that_is_cancelled_leaves_its_server(peer: Peer) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(calling(http_tool(peer.hangs("/cancelled"))))
        await asyncio.to_thread(peer.wait, "/cancelled")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert peer.was_left("/cancelled", 1)


def test_calls_leave_nothing_open_however_they_end(peer: Peer) -> None:
    ends = [answers("x"), answers("x", 500), resets, says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")]
    urls = [peer.at(f"/ends{number}", does) for number, does in enumerate(ends)]
    urls += [peer.hangs("/ends-hang"), peer.pours("/ends-pour", 2**24, b"HTTP/1.1 200 OK\r\n\r\n")]

    async def scenario() -> tuple[int, int]:
        async def once() -> int:
            await asyncio.gather(*(calling(http_tool(url, timeout_seconds=0.3)) for url in urls * 5))
            await asyncio.sleep(0.2)  # The peer, which is in this process, closes its sides.
            return len(asyncio.all_tasks()) * 1000 + int(psutil.Process().num_fds())

        return await once(), await once()

    first, second = asyncio.run(scenario())
    assert second == first


# Servers that are down


def test_a_server_that_fails_again_and_again_is_left_alone(peer: Peer) -> None:
    box, spec = toolbox(), http_tool(peer.at("/down", answers("x", 503)))
    for _ in range(FAILURES):
        assert failed(spec, box) == "The server answered 503: x"
    assert "it is not called" in failed(spec, box)
    assert len(peer.got("/down")) == FAILURES
    assert failed(http_tool(f"{peer.url}/down"), box) == "The server answered 503: x", "another tool has its own"


def test_what_a_server_refuses_says_nothing_of_its_health(peer: Peer) -> None:
    box, spec = toolbox(), http_tool(peer.at("/refuses", answers("x", 404)))
    assert {failed(spec, box) for _ in range(FAILURES + 1)} == {"The server answered 404: x"}


def test_calls_are_counted_by_kind_and_outcome(peer: Peer) -> None:
    good, bad = (CALLS.labels("http", outcome)._value for outcome in ("completed", "failed"))
    before = good.get(), bad.get()
    called(http_tool(f"{peer.url}/counted"))
    failed(http_tool(peer.at("/uncounted", answers("x", 400))))
    assert (good.get(), bad.get()) == (before[0] + 1, before[1] + 1)


# Who wants inside


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS + INSIDE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_spelling_of_a_private_address_is_connected_to(canary: socket.socket, host: str, method: str) -> None:
    spec = http_tool(f"http://{host}:{port_of(canary)}/{{a}}", method)
    assert failed(spec, toolbox(OutboundGuard([])), a="x")
    assert not was_reached(canary)


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f.1", "2130706433", "localhost", "[::ffff:127.0.0.1]"])
def test_the_same_is_reached_when_the_operator_allows_it(canary: socket.socket, host: str) -> None:
    guard = OutboundGuard([LOOPBACK, ip_network("::1/128")])
    failed(http_tool(f"http://{host}:{port_of(canary)}/", timeout_seconds=0.2), toolbox(guard))
    assert was_reached(canary)


def test_a_name_that_is_rebound_is_checked_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = connections(monkeypatch)
    box = toolbox(OutboundGuard([], answering(["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14", "10.0.0.1"])))
    spec = http_tool("http://rebound.example/")
    assert failed(spec, box) == "No connection, or it broke: ConnectError"
    assert [failed(spec, box) for _ in range(2)] == ["The server does not connect to this address"] * 2
    assert tried == ["93.184.215.14"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_inside_is_not_followed(peer: Peer, canary: socket.socket, status: int) -> None:
    location = f"http://[::1]:{port_of(canary)}/"
    output = failed(http_tool(peer.at("/redirect", answers(b"", status, location=location)), headers={"X-Key": "k"}))
    assert output == f"The server answered {status}; redirects are not followed"
    assert not was_reached(canary)


def test_settings_are_read_as_they_were_written() -> None:
    config = msgspec.convert({"method": "POST", "url": "HTTPS://E.com:444/x?{a}"}, HttpConfig)
    assert (config.origin, to_json(config.body)) == ("https://e.com:444", msgspec.Raw(b"null"))
