"""The WebSocket: its conversation, in both codecs."""

import pytest

from tests.conftest import Server
from tests.runs import ended, events, make_agent, start
from tests.sockets import JSON, MSGPACK, conversing


@pytest.fixture(params=[JSON, MSGPACK])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_run_is_told_from_its_first_event_to_its_end(deployment: Server, codec: str) -> None:
    with deployment.client() as api, conversing(deployment, codec=codec) as socket:
        run = start(api, make_agent(api), "Hello there")
        name = f"execution:{run['id']}"
        told = socket.ask("subscribe", ch=name, **{"from": "earliest"})
        assert (told["t"], told["ch"], told["seq"], told["recovered"]) == ("subscribed", name, 0, True)
        frames = [socket.receive()]
        while frames[-1].get("type") != "execution.completed":
            frames.append(socket.receive())
        events = [frame for frame in frames if frame["t"] == "event"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert "".join(e["data"]["text"] for e in events if e["type"] == "execution.token") == "You said: Hello there"


def test_of_a_run_that_is_over_an_unknown_position_gets_the_end_and_the_epoch_that_counts(
    deployment: Server, codec: str
) -> None:
    with deployment.client() as api, conversing(deployment, codec=codec) as socket:
        run = ended(api, start(api, make_agent(api), "Hello there")["id"])
        events(api, run["id"])  # Waits until its end is told.
        name = f"execution:{run['id']}"
        told = socket.ask("subscribe", ch=name, since={"epoch": "nonsense", "seq": 2})
        frames = socket.until("live")
        assert [frame.get("type", frame["t"]) for frame in frames] == [
            "gap",
            "execution.snapshot",
            "execution.completed",
            "live",
        ]
        position = {"epoch": told["epoch"], "seq": frames[-1]["seq"]}
        socket.ask("unsubscribe", ch=name)
        again = socket.ask("subscribe", ch=name, since=position)
        assert (again["recovered"], again["seq"]) == (True, position["seq"])
