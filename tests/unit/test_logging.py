"""Logs: nothing secret, and one line for one event."""

import json
import logging
import sys
import uuid
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog

from ai_agent.observability.logging import REDACTED, configure_logging, log_request, redact

KEY = "sk-test-AAAAAAAAAAAAAAAAAAAAAAAA3EVRfA"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was before the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    access = log_request.json, log_request.enabled
    yield
    log_request.json, log_request.enabled = access
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logger(*, json: bool = True, level: str = "info") -> Any:
    configure_logging(level=level, json=json)
    return structlog.get_logger()


def line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one line that was written."""
    written = capsys.readouterr().out
    assert len(written.splitlines()) == written.count("\n") == 1, written
    return cast(dict[str, Any], json.loads(written))


@pytest.mark.parametrize(
    "name",
    ["secret", "client_secret", "token", "refresh_token", "password", "Authorization", "cookie", "api_key", "APIKEY"],
)
def test_a_secret_is_removed_by_its_name(name: str) -> None:
    assert redact(None, "info", {name: "hunter2", "event": "e"}) == {name: REDACTED, "event": "e"}


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        f"Bearer {KEY}",
        "Bearer abc.def-ghi_jkl",
        "bearer  abc",
        "sk-proj-AbC_dEf-12345678",
        "sk-ant-api03-AbCdEf12345678",
        "rt-production-" + "Ab0" * 16 + "C",
        "wt-test-" + "Ab0" * 16 + "C",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
    ],
)
@pytest.mark.parametrize("around", ["{}", "the header was {} and more", '{{"Authorization": "{}"}}', "a\n{}\nb"])
def test_a_secret_is_removed_by_its_shape_wherever_it_stands(secret: str, around: str) -> None:
    event = redact(None, "info", {"event": around.format(secret), "url": around.format(secret)})
    for text in event.values():
        assert secret.rpartition(" ")[2] not in text
        assert REDACTED in text


def test_what_only_looks_like_a_secret_stays() -> None:
    event = {
        "event": "a smart-assistant-for-billing, task-based risk-free bearer",
        "count": 5,
        "key_id": "k",
        "session": "sk-",
    }
    assert redact(None, "info", dict(event)) == event


def test_one_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logger().info("first\r\n{}", text="a\nb\rc\u2028d\x0be", name="x\n" * 3)
    written = capsys.readouterr().out
    assert written.count("\n") == 1
    assert "\r" not in written
    assert json.loads(written)["text"] == "a\nb\rc\u2028d\x0be"


def test_a_line_tells_when_how_severe_and_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.contextvars.bind_contextvars(correlation_id="c1")
    logger().warning("run_failed", attempt=2)
    found = line(capsys)
    assert (found["event"], found["level"], found["attempt"]) == ("run_failed", "warning", 2)
    assert found["correlation_id"] == "c1"
    assert found["timestamp"].endswith("Z")


def test_json_writes_ids_exceptions_and_objects(capsys: pytest.CaptureFixture[str]) -> None:
    identity = uuid.uuid4()
    logger().info("e", id=identity, error=ValueError("bad"), thing=object, parts={"a", "b"})
    found = line(capsys)
    assert (found["id"], found["error"]) == (str(identity), "ValueError('bad')")
    assert (found["thing"], sorted(found["parts"])) == ("<class 'object'>", ["a", "b"])


def test_a_request_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="info", json=True)
    log_request(method="GET", route="/a\n/b", status=200, principal=None)
    found = line(capsys)
    assert (found["event"], found["level"], found["route"], found["status"]) == ("request", "info", "/a\n/b", 200)
    assert found["timestamp"].endswith("Z")


def test_requests_are_not_written_when_only_warnings_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="warning", json=True)
    log_request(method="GET", route="/", status=200)
    assert capsys.readouterr().out == ""


def test_an_exception_is_one_line_without_its_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    log = logger()
    try:
        raise ValueError(f"refused: {KEY}")
    except ValueError:
        log.exception("request_crashed")
    found = line(capsys)
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith(f"ValueError: refused: {REDACTED}")


def test_records_of_libraries_are_written_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    logger()
    logging.getLogger("library").warning("said\n%s", f"Bearer {KEY}")
    found = line(capsys)
    assert (found["event"], found["level"]) == (f"said\n{REDACTED}", "warning")


def test_chatty_libraries_are_heard_only_when_they_warn(capsys: pytest.CaptureFixture[str]) -> None:
    logger(level="debug")
    logging.getLogger("httpx").info("GET https://provider.example/")
    assert capsys.readouterr().out == ""
    logging.getLogger("httpx").warning("slow")
    assert line(capsys)["event"] == "slow"


def test_what_is_less_severe_than_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    log = logger(level="warning")
    log.info("quiet")
    logging.getLogger("library").info("quiet")
    assert capsys.readouterr().out == ""
    log.error("loud")
    assert line(capsys)["event"] == "loud"


def test_a_console_shows_no_secrets_and_no_colours_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not sys.stdout.isatty()
    logger(json=False).info("started", header=f"Bearer {KEY}", api_key="hunter2", port=8000)
    written = capsys.readouterr().out
    assert "port=8000" in written
    assert KEY not in written
    assert "hunter2" not in written
    assert "\x1b" not in written


KEY = "sk-test-AAAAAAAAAAAAAAAAAAAAAAAA3EVRfA"


@pytest.mark.parametrize(
    "value", [{"authorization": "hunter2-a"}, [f"Bearer {KEY}"], {"a": [{"api_key": "hunter2-a"}]}, (KEY,), {KEY}]
)
def test_secrets_are_removed_inside_of_objects_and_lists(value: object) -> None:
    written = repr(redact(None, "info", {"event": "e", "value": value}))
    assert KEY not in written
    assert "hunter2" not in written


@pytest.mark.parametrize("secret", ["BEARER abcdef", "sk-" + "A1b2" * 12])
def test_other_shapes_of_secrets_are_removed(secret: str) -> None:
    assert redact(None, "info", {"event": secret})["event"] == REDACTED


def test_a_console_shows_no_secret_of_an_exception_or_its_variables(capsys: pytest.CaptureFixture[str]) -> None:
    import structlog

    configure_logging(level="info", json=False)
    held = KEY
    try:
        raise ValueError(f"refused: {held}")
    except ValueError:
        structlog.get_logger().exception("request_crashed")
    structlog.reset_defaults()
    assert KEY not in capsys.readouterr().out


def test_a_console_line_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    import structlog

    configure_logging(level="info", json=False)
    structlog.get_logger().info("said\r\n2026 [info] forged")
    structlog.reset_defaults()
    assert capsys.readouterr().out.count("\n") == 1


def test_half_a_character_does_not_break_a_log_line() -> None:
    import structlog

    configure_logging(level="info", json=True)
    try:
        structlog.get_logger().info("e", text="\ud800")
    finally:
        structlog.reset_defaults()
