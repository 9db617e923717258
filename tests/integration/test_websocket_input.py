"""What a socket answers to input that is wrong: each row of the table in docs/realtime.md, in both codecs."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.conftest import KEY, Server
from tests.model_server import ModelServer
from tests.sockets import JSON, MSGPACK, Socket, conversing, opened

SETTINGS = {"AI_AGENT_WS_PING_SECONDS": "1", "AI_AGENT_WS_PONG_SECONDS": "1"}


@pytest.fixture(scope="module")
def server(model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("input")
    started = Server(f"sqlite:///{folder}/test.db", folder, OPENAI_BASE_URL=f"{model.url}/v1")
    yield started
    started.stop()


@pytest.fixture(params=[JSON, MSGPACK], ids=["json", "msgpack"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def still_talks(socket: Socket) -> bool:
    return bool(socket.ask("ping")["t"] == "pong")


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (None, None),
        (7, None),
        ("connect", None),
        ([{"t": "ping"}], None),
        ({"id": 1}, "t"),
        ({"t": 7}, "t"),
        ({"t": "ping", "id": -1}, "id"),
        ({"t": "ping", "id": 2**32}, "id"),
        ({"t": "ping", "id": "one"}, "id"),
        ({"t": "subscribe", "id": 1}, "ch"),
        ({"t": "subscribe", "ch": 7}, "ch"),
        ({"t": "subscribe", "ch": "session:1", "colour": "red"}, "colour"),
        ({"t": "subscribe", "ch": "session:1", "since": {"epoch": "e", "seq": -1}}, "since.seq"),
        ({"t": "subscribe", "ch": "session:1", "from": "last:many"}, "from"),
        ({"t": "subscribe", "ch": "session:1", "on_gap": "cry"}, "on_gap"),
        ({"t": "history", "ch": "session:1", "since": {"seq": 0}, "limit": 201}, "limit"),
        ({"t": "call", "method": 1}, "method"),
    ],
)
def test_a_frame_that_is_none_is_told_with_the_field_and_the_conversation_goes_on(
    server: Server, codec: str, frame: Any, field: str | None
) -> None:
    with conversing(server, codec=codec) as socket:
        socket.send(frame)
        error = socket.receive()
        assert (error["t"], error["code"], error["status"]) == ("error", "bad_frame", 400)
        assert error.get("field") == field, error
        wanted = frame.get("id") if isinstance(frame, dict) else None
        valid = isinstance(wanted, int) and 0 <= wanted < 2**32
        assert error.get("id") == (wanted if valid else None)
        assert still_talks(socket)


@pytest.mark.parametrize(
    "text", ["", "{", "{]", "[" * 5000, '{"t":' * 2000, "\x00", '{"t":"ping"}{"t":"ping"}', '{"t":"ping","id":1e999}']
)
def test_what_cannot_be_decoded_is_told_and_the_conversation_goes_on(server: Server, text: str) -> None:
    with conversing(server) as socket:
        socket.connection.send(text)
        assert socket.receive()["code"] == "bad_frame"
        assert still_talks(socket)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x82\xa1t", b"\xdf\xff\xff\xff\xff", b"\x91" * 5000])
def test_bytes_that_cannot_be_decoded_are_told_and_the_conversation_goes_on(server: Server, data: bytes) -> None:
    with conversing(server, codec=MSGPACK) as socket:
        socket.connection.send(data)
        assert socket.receive()["code"] == "bad_frame"
        assert still_talks(socket)


def test_five_bad_frames_in_a_minute_close(server: Server, codec: str) -> None:
    with conversing(server, codec=codec) as socket:
        for _ in range(5):
            socket.send("nonsense")
        frames, code, reason = socket.closed()
        assert [frame["t"] for frame in frames] == ["error"] * 5 + ["bye"]
        assert (code, reason) == (4400, "bad_frame")
        assert frames[-1] == {"t": "bye", "code": 4400, "reason": "bad_frame", "reconnect": False}


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "dance", "id": 5},
        {"t": "call", "id": 5, "method": "session.dance"},
    ],
)
def test_what_nobody_knows_is_unsupported_and_the_conversation_goes_on(
    server: Server, codec: str, frame: dict[str, Any]
) -> None:
    with conversing(server, codec=codec) as socket:
        socket.send(frame)
        error = socket.receive()
        assert (error["t"], error["id"], error["code"]) == ("error", 5, "unsupported")
        assert still_talks(socket)


def test_a_command_before_connect_closes(server: Server, codec: str) -> None:
    with opened(server, codec=codec) as socket:
        socket.send({"t": "subscribe", "id": 1, "ch": "system"})
        frames, code, _ = socket.closed()
        assert [(frame["t"], frame.get("code")) for frame in frames] == [("error", "not_connected"), ("bye", 4401)]
        assert frames[0]["id"] == 1
        assert code == 4401


def test_whoever_never_connects_is_closed_after_ten_seconds(server: Server) -> None:
    with opened(server) as socket:
        frames, code, _ = socket.closed(15)
        assert [(frame["t"], frame.get("code")) for frame in frames] == [("error", "not_connected"), ("bye", 4411)]
        assert code == 4411
        assert frames[1]["reconnect"] is True


def test_a_second_connect_is_told_and_the_conversation_goes_on(server: Server, codec: str) -> None:
    with conversing(server, codec=codec) as socket:
        assert socket.ask("connect", token=KEY)["code"] == "already_connected"
        assert still_talks(socket)


def test_text_on_msgpack_and_bytes_on_json_close(server: Server) -> None:
    with conversing(server, codec=MSGPACK) as socket:
        socket.connection.send(json.dumps({"t": "ping"}))
        assert socket.closed()[1] == 1003
    with conversing(server, codec=JSON) as socket:
        socket.connection.send(msgspec.msgpack.encode({"t": "ping"}))
        assert socket.closed()[1] == 1003


@pytest.mark.parametrize(("size", "fits"), [(65_536, True), (65_537, False)])
def test_a_frame_has_at_most_64_kib(server: Server, size: int, fits: bool) -> None:
    with conversing(server) as socket:
        frame = json.dumps({"t": "call", "id": 1, "method": "message.create", "params": {"content": ""}})
        socket.connection.send(frame.replace('""', f'"{"x" * (size - len(frame))}"'))
        if fits:
            assert socket.receive()["code"] == "validation_error"
        else:
            assert socket.closed()[1] == 1009


def test_a_subprotocol_that_we_do_not_speak_is_told_and_closed(server: Server) -> None:
    with opened(server, codec="graphql-ws") as socket:
        frames, code, _ = socket.closed()
        assert [(frame["t"], frame["code"]) for frame in frames] == [("error", "unsupported"), ("bye", 4406)]
        assert code == 4406


def test_without_a_subprotocol_it_is_json(server: Server) -> None:
    with opened(server, codec=None) as socket:
        assert socket.connect()["t"] == "welcome"


def test_only_who_said_so_may_send_several_frames_at_once(server: Server, codec: str) -> None:
    with conversing(server, codec=codec, caps=["batch"]) as socket:
        socket.send([{"t": "ping", "id": 1}, {"t": "ping", "id": 2}])
        assert [socket.receive()["id"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("name", ["", "session", "session:", "Session:1", "session:a b", "what:1", "control:sockets"])
def test_a_bad_name_of_a_channel_is_told(server: Server, codec: str, name: str) -> None:
    with conversing(server, codec=codec) as socket:
        assert socket.ask("subscribe", ch=name)["code"] in {"bad_channel", "bad_frame"}
        assert still_talks(socket)


def test_a_channel_that_is_somebody_elses_and_one_that_is_not_there_look_alike(server: Server, codec: str) -> None:
    with server.client() as admin:
        session = admin.post("/sessions", json={}).json()["id"]
        key = admin.post("/admin/keys", json={"name": "x", "owner_id": "eve", "scopes": ["sessions:read"]}).json()[
            "key"
        ]
    with conversing(server, codec=codec, token=key) as socket:
        errors = [socket.ask("subscribe", ch=f"session:{one}") for one in (session, uuid.uuid4(), "nonsense")]
        errors += [socket.ask("history", ch=f"session:{session}", since={"seq": 0})]
        for error in errors:
            assert (error["code"], error["status"], error["retryable"]) == ("authorization_error", 403, False)
        assert len({error["message"] for error in errors}) == 1


def test_a_second_subscription_and_the_hundred_and_first_are_told(server: Server) -> None:
    with conversing(server) as socket:
        for number in range(100):
            assert socket.ask("subscribe", ch=f"topic:{number}")["t"] == "subscribed"
            time.sleep(0.02)  # 50 commands a second.
        assert socket.ask("subscribe", ch="topic:0")["code"] == "already_subscribed"
        assert socket.ask("subscribe", ch="topic:100")["code"] == "limit"
        assert socket.ask("unsubscribe", ch="topic:0")["reason"] == "requested"
        assert socket.ask("subscribe", ch="topic:100")["t"] == "subscribed"


def test_more_than_fifty_commands_a_second_are_refused_and_the_conversation_goes_on(server: Server) -> None:
    with conversing(server) as socket:
        for number in range(150):
            socket.send({"t": "ping", "id": number})
        replies = [socket.receive() for _ in range(150)]
        refused = [frame for frame in replies if frame["t"] == "error"]
        # All 151, with the one that connects, may be here before the bucket gains a token.
        assert 20 <= len(refused) <= 51
        assert {frame["code"] for frame in refused} == {"rate_limit_error"}
        assert all(frame["retry_after_ms"] > 0 and frame["retryable"] for frame in refused)
        assert sorted(frame["id"] for frame in replies) == list(range(150))


def test_a_client_that_answers_no_ping_is_closed(model: ModelServer, tmp_path: Any) -> None:
    server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, **SETTINGS)
    try:
        with opened(server, silent=True) as socket:
            assert socket.connect()["heartbeat"] == {"ping_ms": 1000, "pong_ms": 1000}
            frames, code, _ = socket.closed()
            assert [frame["t"] for frame in frames] == ["ping", "bye"]
            assert code == 4415
    finally:
        server.stop()


def test_the_health_of_the_socket_is_told(server: Server) -> None:
    with opened(server, "/ws/health") as socket:
        message = json.loads(socket.connection.recv())
        assert message["status"] == "healthy"
        assert socket.closed()[1] == 1000
