"""Who is in a session, and who is typing: seen on every node, told once for each user, and true in the end."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import ANY
from uuid import uuid4

import httpx
import pytest

from ai_agent.client import Event, RealtimeClient, Refused, Subscription
from ai_agent.domain.event_data import PresenceJoinedData, PresenceLeftData, PresenceTypingData
from tests.conftest import KEY, Nodes
from tests.sockets import Socket, conversing, opened

ADMIN = "admin"
SOON = 1.0
"""The seconds in which it has to be told that a socket has ended."""


@pytest.fixture
def api(nodes: Nodes) -> Iterator[httpx.Client]:
    with nodes.first.client() as client:
        yield client


@pytest.fixture
def user() -> str:
    return f"user-{uuid4()}"


@pytest.fixture
def key(api: httpx.Client, user: str) -> str:
    return key_of(api, user, "sessions:read", "sessions:write")


def key_of(api: httpx.Client, owner: str, *scopes: str) -> str:
    made = api.post("/admin/keys", json={"name": "presence", "owner_id": owner, "scopes": scopes})
    return str(made.raise_for_status().json()["key"])


@pytest.fixture
def channel(nodes: Nodes, key: str) -> str:
    """Of a session of the user."""
    with nodes.first.client(key) as own:
        return f"presence:{own.post('/sessions', json={}).raise_for_status().json()['id']}"


def enter(socket: Socket, channel: str) -> None:
    assert socket.ask("subscribe", ch=channel)["t"] == "subscribed"


def told(socket: Socket, count: int, seconds: float = 10) -> list[tuple[str, dict[str, Any]]]:
    return [(event["type"], event["data"]) for event in socket.events(count, seconds)]


def who(socket: Socket, count: int) -> list[tuple[str, str]]:
    return [(kind.removeprefix("presence."), data["user_id"]) for kind, data in told(socket, count)]


def users(socket: Socket, channel: str, **more: Any) -> dict[str, bool]:
    """Who is there, and whether they are typing."""
    answer = socket.ask("presence", ch=channel, **more)
    assert answer["t"] == "reply", answer
    return {one["user_id"]: one["typing"] for one in answer["data"]["users"]}


def hears_nothing(socket: Socket, seconds: float = 1.5) -> None:
    """But that it is live."""
    with pytest.raises(TimeoutError):
        while True:
            frame = socket.receive(seconds)
            assert frame["t"] in {"live", "epoch"}, frame


def test_a_user_is_there_for_everybody_on_all_nodes(nodes: Nodes, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin, conversing(nodes.second, token=key, client={"name": "web"}) as own:
        before = time.time_ns() // 1_000_000
        enter(admin, channel)
        assert who(admin, 1) == [("joined", ADMIN)], "It hears of itself behind `subscribed`"
        enter(own, channel)
        for socket in (admin, own):
            kind, data = told(socket, 1)[0] if socket is admin else told(socket, 1)[-1]
            assert (kind, data) == ("presence.joined", {"user_id": user, "client": "web"})
        listed = admin.ask("presence", ch=channel)["data"]["users"]
        assert [(one["user_id"], one["typing"]) for one in listed] == [(ADMIN, False), (user, False)]
        assert before <= listed[0]["since"] <= listed[1]["since"] <= time.time_ns() // 1_000_000
        assert own.ask("presence", ch=channel)["data"]["users"] == listed
        assert own.ask("unsubscribe", ch=channel)["t"] == "unsubscribed"
        assert who(admin, 1) == [("left", user)]
        assert users(admin, channel) == {ADMIN: False}


def test_two_tabs_of_a_user_are_one(nodes: Nodes, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin, ExitStack() as tabs:
        enter(admin, channel)
        assert who(admin, 1) == [("joined", ADMIN)]
        opened = [tabs.enter_context(conversing(node, token=key)) for node in (nodes.first, nodes.second, nodes.second)]
        for tab in opened:
            enter(tab, channel)
            assert users(tab, channel) == {ADMIN: False, user: False}
        assert who(admin, 1) == [("joined", user)]
        opened[0].connection.close()
        assert opened[1].ask("unsubscribe", ch=channel)["t"] == "unsubscribed"
        hears_nothing(admin)
        opened[2].connection.close()
        assert who(admin, 1) == [("left", user)]


def test_a_late_farewell_hides_nobody_who_has_come_again(nodes: Nodes, channel: str, user: str, key: str) -> None:
    both = [nodes.first, nodes.second]
    with conversing(nodes.first) as admin, ExitStack() as sockets:
        enter(admin, channel)
        tabs = [[sockets.enter_context(conversing(node, token=key)) for _ in range(4)] for node in both]
        for here, there in zip(*tabs, strict=True):
            for ends, begins in ((here, there), (there, here)) * 5:
                begins.send({"t": "subscribe", "ch": channel, "types": ["nothing"]})
                ends.send({"t": "unsubscribe", "ch": channel})
            assert users(here, channel) == {ADMIN: False, user: False}
            assert all_told(admin)[-1] == ("joined", user)
            assert here.ask("unsubscribe", ch=channel)["t"] == "unsubscribed"
            assert all_told(admin)[-1] == ("left", user)


def all_told(socket: Socket) -> list[tuple[str, str]]:
    """Until it is quiet."""
    heard: list[tuple[str, str]] = []
    try:
        while True:
            frame = socket.receive(1)
            if frame["t"] == "event":
                heard.append((frame["type"].removeprefix("presence."), frame["data"]["user_id"]))
    except TimeoutError:
        return heard


def test_whose_socket_is_cut_is_gone_within_a_second(nodes: Nodes, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin:
        enter(admin, channel)
        with conversing(nodes.second, token=key) as own:
            enter(own, channel)
            assert set(who(admin, 2)) == {("joined", ADMIN), ("joined", user)}
            own.connection.socket.shutdown(2)
            at = time.monotonic()
            assert who(admin, 1) == [("left", user)]
            assert time.monotonic() - at < SOON


def test_whose_key_is_revoked_is_gone(nodes: Nodes, api: httpx.Client, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin, conversing(nodes.second, token=key) as own:
        enter(admin, channel)
        enter(own, channel)
        assert set(who(admin, 2)) == {("joined", ADMIN), ("joined", user)}
        (found,) = api.get("/admin/keys", params={"owner_id": user}).json()["items"]
        assert api.delete(f"/admin/keys/{found['id']}").status_code == 204
        assert own.closed()[1] == 4451
        assert who(admin, 1) == [("left", user)]


def test_who_types_is_told_and_listed_and_stops_by_leaving(nodes: Nodes, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin, conversing(nodes.second, token=key) as own:
        enter(admin, channel)
        enter(own, channel)
        assert set(who(admin, 2)) == {("joined", ADMIN), ("joined", user)}
        assert users(own, channel, typing=True) == {ADMIN: False, user: True}
        assert told(admin, 1) == [("presence.typing", {"user_id": user, "typing": True})]
        assert users(admin, channel) == {ADMIN: False, user: True}
        own.send({"t": "presence", "ch": channel, "typing": True})  # Said again it is no news; without an id no answer.
        assert users(own, channel, typing=False) == {ADMIN: False, user: False}
        assert told(admin, 1) == [("presence.typing", {"user_id": user, "typing": False})]
        assert users(own, channel, typing=True)[user]
        assert told(admin, 1)[0][0] == "presence.typing"
        own.connection.close()
        assert who(admin, 1) == [("left", user)]


def test_typing_falls_back_after_ten_seconds(nodes: Nodes, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin, conversing(nodes.second, token=key) as own:
        enter(admin, channel)
        enter(own, channel)
        assert set(who(admin, 2)) == {("joined", ADMIN), ("joined", user)}
        assert users(own, channel, typing=True)[user]
        time.sleep(2)
        assert users(own, channel, typing=True)[user]
        renewed = time.monotonic()
        assert told(admin, 1) == [("presence.typing", {"user_id": user, "typing": True})]
        assert told(admin, 1, 15) == [("presence.typing", {"user_id": user, "typing": False})]
        assert 9 < time.monotonic() - renewed < 12
        assert users(admin, channel) == {ADMIN: False, user: False}


def test_others_neither_listen_nor_look(nodes: Nodes, api: httpx.Client, channel: str, user: str, key: str) -> None:
    stranger = key_of(api, f"user-{uuid4()}", "sessions:read")
    blind = key_of(api, user, "agents:read")
    absent = f"presence:{uuid4()}"
    for token, where in ((stranger, channel), (blind, channel), (key, absent), (key, "presence:somewhere")):
        with conversing(nodes.second, token=token) as socket:
            assert socket.ask("subscribe", ch=where)["code"] == "authorization_error"
            assert socket.ask("presence", ch=where)["code"] == "authorization_error"
            assert socket.ask("presence", ch=where, typing=True)["code"] == "authorization_error"


def test_who_does_not_listen_may_look_and_is_not_there(nodes: Nodes, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin, conversing(nodes.second, token=key) as own:
        assert users(admin, channel) == {}
        enter(own, channel)
        assert users(own, channel) == {user: False}
        assert users(admin, channel) == {user: False}
        assert admin.ask("presence", ch=channel, typing=True)["code"] == "bad_channel"
        assert admin.ask("presence", ch=channel.replace("presence", "session"))["code"] == "bad_channel"


def test_who_comes_back_with_the_connection_is_there_again(nodes: Nodes, channel: str, user: str, key: str) -> None:
    with conversing(nodes.first) as admin:
        enter(admin, channel)
        assert who(admin, 1) == [("joined", ADMIN)]
        with conversing(nodes.second, token=key) as own:
            at = own.ask("subscribe", ch=channel)
            assert who(admin, 1) == [("joined", user)]
        assert who(admin, 1) == [("left", user)]
        resume = {"ch": channel, "seq": at["seq"], "epoch": at["epoch"]}
        with opened(nodes.second) as again:
            assert again.connect(key, resume=[resume])["resumed"][0]["recovered"]
            assert who(admin, 1) == [("joined", user)]
            assert who(again, 3) == [("joined", user), ("left", user), ("joined", user)]


def test_the_client_hears_of_others_looks_and_types(nodes: Nodes, channel: str, user: str, key: str) -> None:
    session_id = channel.removeprefix("presence:")

    async def scenario() -> None:
        async with RealtimeClient(nodes.first.url, KEY) as admin, RealtimeClient(nodes.second.url, key) as own:
            heard = events(admin.subscribe(channel))
            assert await anext(heard) == PresenceJoinedData(ADMIN, ANY)
            with pytest.raises(Refused, match="Subscribe"):
                await own.typing(session_id)
            async with own.subscribe(channel) as listening:
                assert await anext(events(listening)) == PresenceJoinedData(user, ANY)
                assert await anext(heard) == PresenceJoinedData(user, ANY)
                there = await own.typing(session_id)
                assert [(one.user_id, one.typing) for one in there] == [(ADMIN, False), (user, True)]
                assert await anext(heard) == PresenceTypingData(user, True)
                assert await admin.presence(session_id) == there
                await own.typing(session_id, False)
                assert await anext(heard) == PresenceTypingData(user, False)
            assert await anext(heard) == PresenceLeftData(user)
            assert [one.user_id for one in await own.presence(session_id)] == [ADMIN]

    async def run() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(run())


async def events(subscription: Subscription) -> AsyncIterator[object]:
    async for notice in subscription:
        if isinstance(notice, Event):
            yield notice.data


def test_nobody_is_in_a_session_that_is_deleted(nodes: Nodes, channel: str, key: str) -> None:
    with conversing(nodes.second, token=key) as own, nodes.first.client(key) as rest:
        enter(own, channel)
        assert who(own, 1)[0][0] == "joined"
        assert rest.delete(f"/sessions/{channel.partition(':')[2]}").status_code == 204
        frames = own.until("unsubscribed")
        assert [frame["type"] for frame in frames if frame["t"] == "event"] == ["session.deleted"]
        assert frames[-1] == {"t": "unsubscribed", "ch": channel, "reason": "deleted"}
        assert own.ask("presence", ch=channel)["code"] == "authorization_error"
