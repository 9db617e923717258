"""A user's queue: what was told while they were away reaches them, until one of their clients acknowledges it."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import Nodes
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, make_agent, start
from tests.sockets import Frame, Socket, conversing

SETTINGS = {"AI_AGENT_WS_ACK_WAIT_SECONDS": "1.5", "AI_AGENT_WS_MAX_DELIVER": "3"}
URGENT, NORMAL, BULK = 0, 1, 2


@pytest.fixture
def api(nodes: Nodes) -> Iterator[httpx.Client]:
    """Asks the first node; clients listen on the second one."""
    with nodes.first.client() as client:
        yield client


@pytest.fixture
def user() -> str:
    return f"user-{uuid4()}"


@pytest.fixture
def key(api: httpx.Client, user: str) -> str:
    scopes = ["agents:read", "agents:execute", "agents:write", "sessions:write", "tools:write"]
    made = api.post("/admin/keys", json={"name": "queue", "owner_id": user, "scopes": scopes})
    return str(made.raise_for_status().json()["key"])


def notify(api: httpx.Client, user: str, title: str, **more: Any) -> str:
    answer = api.post("/notifications", json={"to": {"user_id": user}, "title": title, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["eid"])


def delivery(api: httpx.Client, eid: str) -> dict[str, Any]:
    return dict(api.get(f"/events/{eid}/delivery").raise_for_status().json())


def reaches(what: Callable[[], object], value: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while (found := what()) != value:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def stored(api: httpx.Client, *eids: str) -> None:
    for eid in eids:
        reaches(lambda eid=eid: delivery(api, eid)["status"] != "accepted", True)  # type: ignore[misc]


def queue(socket: Socket, user: str, **more: Any) -> list[Frame]:
    """Subscribes; the events that waited."""
    channel = f"user:{user}"
    assert socket.ask("subscribe", ch=channel, **more)["t"] == "subscribed"
    return [frame for frame in socket.until("live") if frame["t"] == "event"]


def titles(events: list[Frame]) -> list[str]:
    return [event["data"]["title"] for event in events]


def test_what_came_while_the_user_was_away_comes_urgent_first_and_in_order(
    nodes: Nodes, api: httpx.Client, user: str, key: str
) -> None:
    sent = [("b1", BULK), ("n1", NORMAL), ("u1", URGENT), ("n2", NORMAL), ("u2", URGENT)]
    stored(api, *[notify(api, user, title, lane=lane) for title, lane in sent])
    with conversing(nodes.second, token=key) as socket:
        events = queue(socket, user)
        assert titles(events) == ["u1", "u2", "n1", "n2", "b1"]
        assert [(event["lane"], event["seq"]) for event in events] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
        assert all(event["ack"] and event["try"] == 1 and event["ch"] == f"user:{user}" for event in events)
        notify(api, user, "live", lane=URGENT)
        assert titles(socket.events(1)) == ["live"]


def test_what_is_acknowledged_is_never_told_again(nodes: Nodes, api: httpx.Client, user: str, key: str) -> None:
    eids = [notify(api, user, f"n{number}") for number in range(4)]
    stored(api, *eids)
    client = {"name": "phone", "instance": "1"}
    with conversing(nodes.second, token=key, client=client) as socket:
        assert len(queue(socket, user)) == 4
        assert socket.ask("ack", ch=f"user:{user}", lane=NORMAL, seq=2)["data"] == {"acknowledged": 2}
        assert socket.ask("ack", ch=f"user:{user}", eids=[eids[3]])["data"] == {"acknowledged": 1}
        assert socket.ask("ack", ch=f"user:{user}", lane=NORMAL, seq=2)["data"] == {"acknowledged": 0}
    told = delivery(api, eids[0])
    assert (told["status"], told["acknowledged_by"], told["tries"]) == ("acknowledged", "phone:1", 1)
    assert told["accepted_at"] <= told["stored_at"] <= told["sent_at"] <= told["acknowledged_at"]
    with conversing(nodes.first, token=key) as socket:
        assert titles(queue(socket, user)) == ["n2"]


def test_what_is_not_acknowledged_comes_again_and_ends_as_a_dead_letter(
    nodes: Nodes, api: httpx.Client, user: str, key: str
) -> None:
    eid = notify(api, user, "lost")
    with conversing(nodes.second, token=key) as socket:
        assert socket.ask("subscribe", ch=f"user:{user}")["t"] == "subscribed"
        assert [event["try"] for event in socket.events(3)] == [1, 2, 3]
        reaches(lambda: delivery(api, eid)["status"], "dead")
        letters = api.get("/admin/queues/dead-letters", params={"user_id": user}).json()["items"]
        assert [(letter["eid"], letter["tries"], letter["data"]["title"]) for letter in letters] == [(eid, 3, "lost")]
        queues = api.get("/admin/queues", params={"user_id": user}).json()["items"]
        assert [(one["lane"], one["depth"], one["dead_letters"]) for one in queues] == [(NORMAL, 0, 1)]
        assert api.post("/admin/queues/dead-letters/replay", json={"eids": [eid]}).json() == {"count": 1}
        # The client that is there has seen it, and so hears of it when it comes again.
        with conversing(nodes.first, token=key) as other:
            events = queue(other, user)
            assert [(event["eid"], event["try"]) for event in events] == [(eid, 1)]
            assert other.ask("ack", ch=f"user:{user}", eids=[eid])["data"] == {"acknowledged": 1}


def test_dead_letters_can_be_removed(nodes: Nodes, api: httpx.Client, user: str, key: str) -> None:
    eid = notify(api, user, "lost")
    with conversing(nodes.second, token=key) as socket:
        assert socket.ask("subscribe", ch=f"user:{user}")["t"] == "subscribed"
        socket.events(3)
        reaches(lambda: delivery(api, eid)["status"], "dead")
    assert api.post("/admin/queues/dead-letters/purge", json={"user_id": user}).json() == {"count": 1}
    assert api.get(f"/events/{eid}/delivery").status_code == 404


def test_a_refused_event_comes_again_when_the_client_wants_it(
    nodes: Nodes, api: httpx.Client, user: str, key: str
) -> None:
    eid = notify(api, user, "later")
    with conversing(nodes.second, token=key) as socket:
        assert socket.ask("subscribe", ch=f"user:{user}")["t"] == "subscribed"
        assert socket.events(1)[0]["try"] == 1
        began = time.monotonic()
        assert socket.ask("nack", ch=f"user:{user}", eid=eid, delay_ms=300)["data"] == {"waiting": True}
        assert socket.events(1)[0]["try"] == 2
        assert time.monotonic() - began >= 0.3
        socket.ask("ack", ch=f"user:{user}", eids=[eid])
        assert socket.ask("nack", ch=f"user:{user}", eid=eid)["data"] == {"waiting": False}


def test_all_clients_of_a_user_are_told_and_one_acknowledgement_is_enough(
    nodes: Nodes, api: httpx.Client, user: str, key: str
) -> None:
    with conversing(nodes.first, token=key) as phone, conversing(nodes.second, token=key) as desk:
        for socket in (phone, desk):
            queue(socket, user)
        eid = notify(api, user, "ring")
        assert [event["try"] for socket in (phone, desk) for event in socket.events(1)] == [1, 1]
        phone.ask("ack", ch=f"user:{user}", eids=[eid])
        time.sleep(2)  # The time after which it would come again.
        notify(api, user, "next")
        assert titles(desk.events(1)) == ["next"]


def test_what_has_expired_is_passed_over_and_said_to_be(nodes: Nodes, api: httpx.Client, user: str, key: str) -> None:
    eids = [notify(api, user, f"n{number}", expires_in=0.05 if number in {1, 2} else None) for number in range(4)]
    stored(api, *eids)
    reaches(lambda: delivery(api, eids[2])["status"], "expired")
    with conversing(nodes.second, token=key) as socket:
        assert socket.ask("subscribe", ch=f"user:{user}")["t"] == "subscribed"
        frames = socket.until("live")
        gaps = [(frame["lane"], frame["from"], frame["to"], frame["reason"]) for frame in frames if frame["t"] == "gap"]
        assert gaps == [(NORMAL, 2, 3, "expired")]
        assert titles([frame for frame in frames if frame["t"] == "event"]) == ["n0", "n3"]


def test_no_more_is_on_its_way_than_a_client_can_take(nodes: Nodes, api: httpx.Client, user: str, key: str) -> None:
    eids = [notify(api, user, f"n{number}") for number in range(300)]
    stored(api, eids[-1])
    with conversing(nodes.second, token=key) as socket:
        assert socket.ask("subscribe", ch=f"user:{user}")["t"] == "subscribed"
        first = socket.events(256)
        assert titles(first) == [f"n{number}" for number in range(256)]
        assert socket.ask("ping")["t"] == "pong"  # Nothing came before it.
        socket.ask("ack", ch=f"user:{user}", lane=NORMAL, seq=256)
        assert titles(socket.events(44)) == [f"n{number}" for number in range(256, 300)]


def test_what_a_run_wants_of_its_owner_and_how_it_ends_is_queued(
    nodes: Nodes, model: ModelServer, user: str, key: str
) -> None:
    call = Call("calculator", {"expression": "6 * 7"}, id="c1")
    model.script(Reply("Let me see.", calls=[call]), Reply("That is it."), Reply(status=400))
    with nodes.first.client(key) as own:
        own.post("/tools", json={"name": "calculator", "kind": "builtin", "requires_approval": True})
        agent = make_agent(own, tools=["calculator"])
        run = start(own, agent)
        with conversing(nodes.second, token=key) as socket:
            assert socket.ask("subscribe", ch=f"user:{user}")["t"] == "subscribed"
            asked = socket.events(1)[0]
            assert (asked["type"], asked["lane"], asked["data"]["call_id"]) == ("approval.requested", URGENT, "c1")
            own.post(f"/executions/{run['id']}/approvals/c1", json={"decision": "approve"})
            ended(own, run["id"])
            told = [(event["type"], event["lane"]) for event in socket.events(2)]
            assert told == [("approval.resolved", URGENT), ("execution.completed", NORMAL)]
            failed = start(own, agent)
            ended(own, failed["id"])
            told = [(event["type"], event["lane"]) for event in socket.events(1)]
            assert told == [("execution.failed", URGENT)]


def test_runs_are_hidden_from_credentials_that_may_not_see_them(
    nodes: Nodes, api: httpx.Client, model: ModelServer, user: str, key: str
) -> None:
    body = {"name": "blind", "owner_id": user, "scopes": ["sessions:read"]}
    blind = str(api.post("/admin/keys", json=body).raise_for_status().json()["key"])
    model.script(Reply("Done."))
    with nodes.first.client(key) as own:
        ended(own, start(own, make_agent(own))["id"])
    stored(api, notify(api, user, "for all"))
    with conversing(nodes.second, token=blind) as socket:
        assert titles(queue(socket, user)) == ["for all"]
    with conversing(nodes.second, token=key) as socket:
        assert [event["type"] for event in queue(socket, user)] == ["execution.completed", "notification"]


def test_only_the_user_listens_to_the_queue(nodes: Nodes, user: str, key: str) -> None:
    with conversing(nodes.second) as socket:  # Not even an admin: who listens takes something out of it.
        assert socket.ask("subscribe", ch=f"user:{user}")["code"] == "authorization_error"
    with conversing(nodes.second, token=key) as socket:
        assert socket.ask("ack", ch=f"user:{user}", lane=NORMAL, seq=1)["code"] == "bad_channel"
        assert socket.ask("history", ch=f"user:{user}", since={"seq": 0})["code"] == "unsupported"
        queue(socket, user)
        for wrong in ({}, {"lane": NORMAL}, {"seq": 3}, {"lane": NORMAL, "seq": 3, "eids": [str(uuid4())]}):
            assert socket.ask("ack", ch=f"user:{user}", **wrong)["code"] == "bad_frame"


def test_everyone_is_told_on_the_channel_of_the_system(nodes: Nodes, api: httpx.Client) -> None:
    with conversing(nodes.second) as socket:
        assert socket.ask("subscribe", ch="system")["t"] == "subscribed"
        answer = api.post("/notifications", json={"to": {"everyone": True}, "title": "maintenance"})
        event = socket.events(1)[0]
        assert (event["eid"], event["type"], event["data"]["title"]) == (
            answer.json()["eid"],
            "notification",
            "maintenance",
        )
        assert api.get(f"/events/{event['eid']}/delivery").status_code == 404


def test_a_session_is_told_at_once_and_its_owner_whenever_they_come(nodes: Nodes, api: httpx.Client) -> None:
    session = api.post("/sessions", json={}).json()["id"]
    with conversing(nodes.second) as socket:
        assert socket.ask("subscribe", ch=f"session:{session}", types=["notification"])["t"] == "subscribed"
        eid = api.post("/notifications", json={"to": {"session_id": session}, "title": "look"}).json()["eid"]
        assert socket.events(1)[0]["eid"] == eid
        stored(api, eid)
        assert delivery(api, eid)["user_id"] == "admin"


@pytest.mark.parametrize(
    "to", [{}, {"user_id": "a", "everyone": True}, {"session_id": str(uuid4()), "user_id": "a"}, {"everyone": False}]
)
def test_exactly_one_recipient_is_named(api: httpx.Client, to: dict[str, Any]) -> None:
    answer = api.post("/notifications", json={"to": to, "title": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


def test_a_session_that_is_not_there_cannot_be_told(api: httpx.Client) -> None:
    answer = api.post("/notifications", json={"to": {"session_id": str(uuid4())}, "title": "x"})
    assert answer.status_code == 404


def test_applications_publish_to_topics(nodes: Nodes, api: httpx.Client) -> None:
    topic = f"orders.{uuid4()}"
    with conversing(nodes.second) as socket:
        assert socket.ask("subscribe", ch=f"topic:{topic}")["t"] == "subscribed"
        answer = api.post(f"/topics/{topic}/events", json={"type": "order.paid", "data": {"order": 7}})
        event = socket.events(1)[0]
        assert (answer.status_code, event["eid"]) == (202, answer.json()["eid"])
        assert (event["type"], event["data"]) == ("order.paid", {"order": 7})
    assert api.post("/topics/a b/events", json={"type": "x"}).status_code == 404
    assert api.post(f"/topics/{topic}/events", json={"type": "X y"}).status_code == 422


def test_what_a_client_is_not_shown_stays_for_others(nodes: Nodes, api: httpx.Client, user: str, key: str) -> None:
    eid = notify(api, user, "hidden")
    stored(api, eid)
    with conversing(nodes.second, token=key) as socket:
        assert queue(socket, user, types=["execution.*"]) == []
    assert delivery(api, eid)["tries"] == 0
    with conversing(nodes.second, token=key) as socket:
        assert titles(queue(socket, user)) == ["hidden"]


def test_metrics_of_events_are_told(api: httpx.Client, user: str) -> None:
    stored(api, notify(api, user, "x"))
    metrics = api.get("/admin/events/metrics").raise_for_status().json()
    assert metrics["unacknowledged"] >= 1
    assert metrics["oldest_unacknowledged_at"] is not None
