"""Who is in a session, when a node dies, and when Redis does: told once, in time, and true again."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Nodes, Server, create_database
from tests.integration.test_presence import ADMIN, enter, key_of, users
from tests.model_server import ModelServer
from tests.servers import ValkeyServer
from tests.sockets import Socket, conversing

WITHIN_SECONDS = 60.0
ALL_LOOK_SECONDS = 12.0
"""In so long each node has looked at each session."""


@pytest.fixture
def two(postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes.on(create_database(postgres_url), valkey.url, tmp_path)
    yield nodes
    nodes.stop()


@pytest.fixture
def third(two: Nodes, tmp_path: Path) -> Iterator[Server]:
    environment = two.first.environment
    settings = {"AI_AGENT_REDIS_URL": environment["AI_AGENT_REDIS_URL"]}
    (tmp_path / "third").mkdir()
    server = Server(environment["AI_AGENT_DATABASE_URL"], tmp_path / "third", "--no-worker", **settings)
    yield server
    server.stop()


def made(nodes: Nodes, user: str) -> tuple[str, str]:
    """A key of the user, and the presence of their session."""
    with nodes.second.client() as api:
        key = key_of(api, user, "sessions:read", "sessions:write")
    with nodes.second.client(key) as own:
        return key, f"presence:{own.post('/sessions', json={}).raise_for_status().json()['id']}"


def heard(socket: Socket, seconds: float) -> list[tuple[str, str]]:
    """Whom it hears to come and go in so many seconds, and whatever else is told of presence."""
    found: list[tuple[str, str]] = []
    until = time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            frame = socket.receive(left)
            if frame["t"] == "event":
                found.append((frame["type"].removeprefix("presence."), frame["data"]["user_id"]))
    except TimeoutError:
        pass
    return found


def is_there(socket: Socket, channel: str, seconds: float, *wanted: str) -> None:
    """Whom a socket finds there in the end."""
    deadline = time.monotonic() + seconds
    while (found := set(users(socket, channel))) != set(wanted):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_who_was_on_a_node_that_died_has_left_once_within_a_minute(two: Nodes, third: Server) -> None:
    key, channel = made(two, "ada")
    with ExitStack() as sockets:
        watching, other = (sockets.enter_context(conversing(node)) for node in (two.second, third))
        enter(watching, channel)
        enter(other, channel)
        dying = sockets.enter_context(conversing(two.first, token=key))
        enter(dying, channel)
        is_there(watching, channel, 2, ADMIN, "ada")
        assert users(dying, channel, typing=True)["ada"]
        assert heard(watching, 1)[-3:] == [("joined", ADMIN), ("joined", "ada"), ("typing", "ada")]
        heard(other, 0.5)
        two.first.stop(signal.SIGKILL)
        at = time.monotonic()
        told: list[tuple[str, str]] = []
        told_there: list[tuple[str, str]] = []
        until = at + WITHIN_SECONDS
        while time.monotonic() < until:
            left_before = ("left", "ada") in told
            told += heard(watching, 0.3)
            told_there += heard(other, 0.1)
            if ("left", "ada") in told and not left_before:
                print(f"told after {time.monotonic() - at:.1f} s")
                until = time.monotonic() + ALL_LOOK_SECONDS  # In which nobody else tells it.
        assert told == told_there == [("typing", "ada"), ("left", "ada")]
        for socket in (watching, other):
            assert list(users(socket, channel)) == [ADMIN]


@pytest.mark.parametrize("empty", [False, True], ids=["as it was", "with nothing"])
def test_presence_is_true_again_when_redis_is(two: Nodes, valkey: ValkeyServer, empty: bool) -> None:
    key, channel = made(two, "bob")
    with ExitStack() as sockets:
        admin = sockets.enter_context(conversing(two.first))
        stays, leaves = (sockets.enter_context(conversing(two.second, token=key)) for _ in range(2))
        cy = key_of_admin(two, "cy")
        comes, goes = (sockets.enter_context(conversing(node, token=cy)) for node in (two.first, two.second))
        for socket in (admin, stays, leaves, goes):
            enter(socket, channel)
        is_there(admin, channel, 2, ADMIN, "bob", "cy")
        valkey.kill()
        goes.connection.close()
        assert leaves.ask("unsubscribe", ch=channel)["t"] == "unsubscribed"
        is_there(stays, channel, 5, "bob")
        is_there(admin, channel, 5, ADMIN)
        valkey.start(empty=empty)
        for socket in (admin, stays):
            is_there(socket, channel, ALL_LOOK_SECONDS, ADMIN, "bob")
        told = heard(admin, 6)
        assert ("left", "cy") in told
        assert [one for one in told if one[1] == "cy"][-1] == ("left", "cy")
        assert ("left", "bob") not in told
        assert ("left", ADMIN) not in told
        enter(comes, channel)
        is_there(stays, channel, 2, ADMIN, "bob", "cy")
        assert heard(admin, 1)[-1] == ("joined", "cy")


def key_of_admin(nodes: Nodes, name: str) -> str:
    with nodes.first.client() as api:
        return key_of(api, name, "admin", "sessions:read")


def test_nobody_is_there_when_the_only_process_starts_again(tmp_path: Path) -> None:
    server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path)
    key, channel = made(Nodes(server), "ada")
    with conversing(server, token=key) as own:
        enter(own, channel)
        assert list(users(own, channel)) == ["ada"]
        server.stop(signal.SIGKILL)
    server.start()
    try:
        with conversing(server) as admin:
            assert users(admin, channel) == {}
            enter(admin, channel)
            is_there(admin, channel, 2, ADMIN)
    finally:
        server.stop()
