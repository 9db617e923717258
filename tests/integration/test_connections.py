"""How many sockets there may be on all nodes together, and what an admin sees and ends of them."""

import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import Server
from tests.servers import ValkeyServer
from tests.sockets import conversing, opened
from tests.two_nodes import Nodes, Somebody, nodes, somebody

__all__ = ["nodes"]

PLACES = 4
"""Of a user of `nodes`."""


def listed(server: Server, **wanted: Any) -> list[dict[str, Any]]:
    with server.client() as admin:
        answer = admin.get("/admin/connections", params={"limit": 100, **wanted})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def shows(server: Server, count: int, seconds: float = 5, **wanted: Any) -> list[dict[str, Any]]:
    """The connections, when they are so many."""
    deadline = time.monotonic() + seconds
    while len(items := listed(server, **wanted)) != count:
        assert time.monotonic() < deadline, items
        time.sleep(0.05)
    return items


def refused(server: Server, caller: Somebody, **fields: Any) -> tuple[str, int, str]:
    with opened(server) as socket:
        socket.send({"t": "connect", "token": caller.key, **fields})
        (error, bye), code, reason = socket.closed()
        assert (error["t"], bye["t"], bye["reconnect"]) == ("error", "bye", False)
        return error["code"], code, reason


def test_a_user_has_so_many_places_on_all_nodes_together(nodes: Nodes) -> None:
    here, there = nodes
    caller, other = somebody(here), somebody(here)
    with ExitStack() as stack:
        for node in (here, there, here, there):
            last = stack.enter_context(conversing(node, token=caller.key))
        for node in nodes:
            assert refused(node, caller) == ("limit", 4430, "connection_limit")
            with conversing(node, token=other.key) as socket:
                assert socket.ask("ping")["t"] == "pong"
        last.connection.close()
        shows(here, PLACES - 1, user_id=caller.owner)
        with conversing(here, token=caller.key) as socket:
            assert socket.ask("ping")["t"] == "pong"


def test_the_same_client_takes_its_place_again_also_on_another_node(nodes: Nodes) -> None:
    here, there = nodes
    caller = somebody(here)
    client = {"name": "web", "instance": uuid.uuid4().hex}
    with ExitStack() as stack:
        others = [stack.enter_context(conversing(here, token=caller.key)) for _ in range(PLACES - 1)]
        first = stack.enter_context(conversing(here, token=caller.key, client=client))
        second = stack.enter_context(conversing(there, token=caller.key, client=client))
        (bye,), code, reason = first.closed(2)
        assert (code, reason, bye["reconnect"]) == (4409, "replaced", False)
        third = stack.enter_context(conversing(there, token=caller.key, client=client))
        assert second.closed(2)[1] == 4409
        for socket in (*others, third):
            assert socket.ask("ping")["t"] == "pong"
        assert len(listed(there, user_id=caller.owner)) == PLACES


def test_nobody_closes_the_client_of_another_user(nodes: Nodes) -> None:
    here, there = nodes
    client = {"instance": uuid.uuid4().hex}
    with (
        conversing(here, token=somebody(here).key, client=client) as one,
        conversing(there, token=somebody(here).key, client=client) as other,
    ):
        for socket in (one, other):
            assert socket.ask("ping")["t"] == "pong"


def test_an_admin_sees_the_connections_of_all_nodes_on_each(nodes: Nodes) -> None:
    here, there = nodes
    caller = somebody(here, "topics:read")
    with (
        opened(here) as one,
        conversing(there, token=caller.key) as other,
    ):
        first = one.connect(caller.key, client={"name": "web", "instance": "tab-1"})
        assert one.ask("subscribe", ch="topic:b")["t"] == one.ask("subscribe", ch="system")["t"] == "subscribed"
        for node in nodes:
            newest, oldest = shows(node, 2, user_id=caller.owner)
            assert newest["connected_at"] > oldest["connected_at"]
            assert newest["node"] != oldest["node"]
            assert (oldest["id"], oldest["node"]) == (first["conn"], first["node"])
            assert oldest["client"] == {"name": "web", "instance": "tab-1"}
            assert (oldest["user_id"], oldest["address"]) == (caller.owner, "127.0.0.1")
            assert [item["id"] for item in listed(node, user_id=caller.owner, node=first["node"])] == [first["conn"]]
        shown = {"subscriptions": ["system", "topic:b"]}
        deadline = time.monotonic() + 5
        while not shown.items() <= listed(there, user_id=caller.owner)[1].items():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        other.connection.close()
        assert [item["id"] for item in shows(here, 1, user_id=caller.owner)] == [first["conn"]]


def test_connections_are_listed_a_page_at_a_time(nodes: Nodes) -> None:
    here, there = nodes
    caller = somebody(here)
    with ExitStack() as stack, here.client() as admin:
        made = []
        for node in (here, there, here):
            socket = stack.enter_context(opened(node))
            made.append(socket.connect(caller.key)["conn"])
        for order, expected in (("asc", made), ("desc", made[::-1])):
            query: dict[str, Any] = {"user_id": caller.owner, "limit": 1, "sort_order": order, "include_total": True}
            seen, page = [], admin.get("/admin/connections", params=query).json()
            assert page["total"] == 3
            while True:
                seen += [item["id"] for item in page["items"]]
                if not page["has_more"]:
                    break
                page = admin.get("/admin/connections", params=query | {"cursor": page["next_cursor"]}).json()
            assert seen == expected
        between = admin.get("/admin/connections", params={"user_id": caller.owner, "offset": 1}).json()["items"]
        assert [item["id"] for item in between] == made[1::-1]
        later = {"user_id": caller.owner, "created_after": between[0]["connected_at"]}
        assert [item["id"] for item in listed(there, **later)] == [made[2]]


@pytest.mark.parametrize("other", [False, True], ids=["the same node", "another node"])
def test_an_admin_ends_a_connection_on_whichever_node(nodes: Nodes, other: bool) -> None:
    here, there = nodes
    caller = somebody(here)
    with opened(here) as socket, nodes[other].client() as admin:
        connection = socket.connect(caller.key)["conn"]
        assert admin.delete(f"/admin/connections/{connection}").status_code == 204
        (bye,), code, reason = socket.closed(2)
        assert (code, reason, bye["reconnect"]) == (4451, "revoked", False)
        shows(there, 0, user_id=caller.owner)
        gone = admin.delete(f"/admin/connections/{connection}")
        assert (gone.status_code, gone.json()["message"]) == (404, "Connection not found")
        (entry,) = admin.get("/admin/audit-log", params={"target_id": connection}).json()["items"]
        assert (entry["action"], entry["target_type"], entry["actor"]) == ("connection.closed", "connection", "admin")
        assert entry["details"]["user_id"] == caller.owner
    with conversing(here, token=caller.key) as socket:
        assert socket.ask("ping")["t"] == "pong", "The credentials stay good"


def test_while_redis_is_away_sockets_open_and_are_counted_by_each_node(nodes: Nodes, valkey: ValkeyServer) -> None:
    here, there = nodes
    caller = somebody(here)
    with ExitStack() as stack:
        with valkey.frozen():
            for _ in range(PLACES):
                stack.enter_context(conversing(here, token=caller.key))
            assert refused(here, caller)[1] == 4430
            stack.enter_context(conversing(there, token=caller.key))
            assert len(listed(here, user_id=caller.owner)) == PLACES
        shows(there, PLACES + 1, seconds=10, user_id=caller.owner)
        assert refused(there, caller)[1] == 4430


@pytest.fixture
def small(tmp_path: Any) -> Iterator[Server]:
    started = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, AI_AGENT_WS_MAX_CONNECTIONS="2")
    yield started
    started.stop()


def test_a_node_has_so_many_places_also_for_who_says_nothing(small: Server) -> None:
    caller = somebody(small)
    with opened(small) as silent, conversing(small) as admin:
        with opened(small) as socket:
            (error, bye), code, reason = socket.closed()
            assert (error["code"], code, reason, bye["reconnect"]) == ("limit", 4430, "connection_limit", False)
        for one in (silent, admin):
            one.connection.close()
        deadline = time.monotonic() + 5
        while not _is_let_in(small, caller):
            assert time.monotonic() < deadline
    assert shows(small, 0) == []


def _is_let_in(server: Server, caller: Somebody) -> bool:
    with opened(server) as socket:
        socket.send({"t": "connect", "token": caller.key})
        return bool(socket.receive()["t"] == "welcome")


def test_one_node_alone_lists_and_ends_its_own(small: Server) -> None:
    caller = somebody(small, "topics:read")
    with opened(small) as socket, small.client() as admin:
        connection = socket.connect(caller.key, client={"instance": "tab"})["conn"]
        socket.ask("subscribe", ch="topic:a")
        (item,) = shows(small, 1)
        assert (item["id"], item["user_id"]) == (connection, caller.owner)
        assert admin.delete(f"/admin/connections/{connection}").status_code == 204
        assert [frame["t"] for frame in socket.closed(2)[0]][-1] == "bye"


def test_a_node_that_dies_is_listed_for_a_minute_and_no_node_minds(nodes: Nodes) -> None:
    """What its end frees is tested where a minute is short: see the registry's tests."""
    here, there = nodes
    caller = somebody(here)
    with opened(there) as socket:
        connection = socket.connect(caller.key)["conn"]
        there.stop(signal.SIGKILL)
        try:
            assert [item["id"] for item in listed(here, user_id=caller.owner)] == [connection]
            with here.client() as admin:
                assert admin.delete(f"/admin/connections/{connection}").status_code == 204
            with conversing(here, token=caller.key) as another:
                assert another.ask("ping")["t"] == "pong"
        finally:
            there.start(there.port)
