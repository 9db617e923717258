"""The AsyncAPI document: valid, complete, and the same wherever it is found."""

import json
from pathlib import Path
from typing import Any, get_args

import httpx
import jsonschema_rs
import msgspec
import pytest

from ai_agent.domain.events import DATA, EventFrame
from ai_agent.domain.frames import SERVER_FRAMES, ClientFrame, CloseCode
from tests.conftest import Server
from tests.contract import node_tools
from tests.integration.test_commands import ai_agent
from tests.sockets import opened
from tests.traffic import ASYNCAPI, Direction, assert_described, faults

FILE = Path(__file__).parents[2] / "docs" / "asyncapi.json"
SCHEMAS: dict[str, Any] = ASYNCAPI["components"]["schemas"]
MESSAGES: dict[str, Any] = ASYNCAPI["components"]["messages"]
TRANSCRIPT = Path(__file__).parent / "realtime_transcript.jsonl"
META_SCHEMA = node_tools.FOLDER / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0-without-$id.json"


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One is enough: the document is the same for every server."""
    return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"


def test_the_document_that_is_checked_in_is_the_one_that_is_served_and_printed(server: Server, tmp_path: Path) -> None:
    served = httpx.get(f"{server.url}/asyncapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.text == FILE.read_text(), "The protocol has changed: `just asyncapi` writes the document anew"
    assert ai_agent(tmp_path, "asyncapi").stdout == served.text


def test_health_is_told_as_it_is_described(server: Server) -> None:
    with opened(server, "/ws/health") as socket:
        assert faults("Healthy", msgspec.json.decode(socket.connection.recv(5))) == []


def test_it_is_a_document_of_asyncapi_3() -> None:
    node_tools.install()
    meta = jsonschema_rs.Draft7Validator(json.loads(META_SCHEMA.read_bytes()))
    assert [f"{error.instance_path}: {error.message[:300]}" for error in meta.iter_errors(ASYNCAPI)] == []
    assert ASYNCAPI["asyncapi"] == "3.0.0"


def test_spectral_finds_nothing() -> None:
    node_tools.install()
    node_tools.tool("spectral", "lint", "--ruleset=spectral-asyncapi.yaml", "--fail-severity=hint", FILE)


def test_every_frame_and_every_event_is_a_message_that_is_received_or_sent() -> None:
    told = [kind.__name__ for kind in SERVER_FRAMES if kind is not EventFrame]
    assert {message["name"] for message in MESSAGES.values()} >= {kind.value for kind in DATA}
    for suffix in ("", "InSession"):
        operations = ASYNCAPI["operations"]
        received = {
            name for name in operations if name.startswith("receive") and name.endswith("InSession") == bool(suffix)
        }
        assert received == {f"receive{kind.__name__}{suffix}" for kind in get_args(ClientFrame)}
        sent = [message["$ref"].rpartition("/")[2] for message in operations[f"sendFrames{suffix}"]["messages"]]
        assert sent[: len(told)] == told
        assert len(sent) == len(told) + len(DATA) + 1


def test_what_clients_are_told_of_close_codes() -> None:
    described = {code["code"]: code for code in ASYNCAPI["x-close-codes"]}
    assert described.keys() == {code.value for code in CloseCode}
    assert described[4420] == {"code": 4420, "reason": "draining", "reconnect": True}
    assert described[4430]["reconnect"] is False


@pytest.mark.parametrize("title", MESSAGES)
def test_the_example_of_a_message_is_valid(title: str) -> None:
    message = MESSAGES[title]
    assert message["summary"]
    (example,) = message["examples"]
    assert faults(title, example["payload"]) == []


@pytest.mark.parametrize("kind", get_args(ClientFrame), ids=lambda kind: kind.__name__)
def test_the_server_can_read_the_example_of_a_command(kind: type[msgspec.Struct]) -> None:
    (example,) = MESSAGES[kind.__name__]["examples"]
    assert msgspec.convert(example["payload"], kind) is not None


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_described_and_honest(name: str) -> None:
    assert SCHEMAS[name].get("description"), "The docstring of the Struct"
    for field, schema in SCHEMAS[name].get("properties", {}).items():
        assert schema.get("description"), f"What {name}.{field} means belongs into the glossary"
        assert schema.keys() - {"description", "default"}, f"{name}.{field} has no type"


EVENT = {"t": "event", "ch": "topic:a", "seq": 1, "eid": "01930e5c-7a10-7000-8000-000000000006", "ts": 1}
TOKEN = {"message_id": "01930e5c-7a10-7000-8000-000000000003", "offset": 0, "text": "Hi"}


@pytest.mark.parametrize(
    ("direction", "frame"),
    [
        ("sent", {"t": "subscribe", "ch": "topic:a", "more": 1}),
        ("sent", {"t": "subscribe"}),
        ("sent", {"t": "live", "ch": "topic:a", "seq": 1}),
        ("received", {"t": "connect"}),
        ("received", {"t": "live", "ch": "topic:a"}),
        ("received", EVENT | {"type": "execution.token", "data": {"text": "Hi"}}),
        ("received", EVENT | {"type": "execution.token", "data": TOKEN, "eid": "1"}),
    ],
)
def test_a_frame_that_is_otherwise_is_found(direction: Direction, frame: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=direction):
        assert_described(frame, direction)


@pytest.mark.parametrize(("said", "direction"), [("send", "sent"), ("receive", "received")])
def test_the_transcript_that_clients_replay_is_of_this_protocol(said: str, direction: Direction) -> None:
    lines = [msgspec.json.decode(line) for line in TRANSCRIPT.read_bytes().splitlines()]
    messages = [line["frame"] for line in lines if line.get("dir") == said]
    frames = [frame for message in messages for frame in (message if isinstance(message, list) else [message])]
    assert len(frames) > 50
    for frame in frames:
        if frame["t"] != "novelty":  # Which no server of today says.
            assert_described(frame, direction)


def test_frames_as_they_should_be_pass() -> None:
    assert_described({"t": "subscribe", "ch": "topic:a", "from": "last:20"}, "sent")
    assert_described(EVENT | {"type": "execution.token", "data": TOKEN, "prev": 0}, "received")
    assert_described(EVENT | {"type": "news.published", "data": {"any": "thing"}}, "received")
