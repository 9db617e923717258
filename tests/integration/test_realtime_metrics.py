"""What Prometheus is told of sockets and events."""

import pytest

from tests.conftest import Server
from tests.prometheus import Told
from tests.runs import ended, events, make_agent, start
from tests.sockets import conversing, opened


@pytest.fixture
def told(deployment: Server) -> Told:
    return Told(deployment.url)


def test_sockets_are_counted_as_they_come_and_go(deployment: Server, told: Told) -> None:
    with conversing(deployment) as socket:
        for channel in ("system", "topic:a"):
            socket.ask("subscribe", ch=channel)
        told.grows(
            lambda by: (
                (by["ai_agent_ws_connects_total"], by["ai_agent_ws_connections"], by["ai_agent_ws_subscriptions"])
                == (1, 1, 2)
            )
        )
    told.grows(
        lambda by: (
            (by.get('ai_agent_ws_closes_total{code="1000"}'), by["ai_agent_ws_connections"]) == (1, -1)
            and by["ai_agent_ws_subscriptions"] == -2
        )
    )
    with opened(deployment) as socket:
        socket.send({"t": "connect", "token": "sk-test-nobody"})
        socket.closed()
    with opened(deployment) as socket:
        socket.connection.close(4999)
    told.grows(
        lambda by: [by.get(f'ai_agent_ws_closes_total{{code="{code}"}}') for code in ("4401", "other")] == [1, 1]
    )
    assert told.lines["ai_agent_ws_queue_bytes"] == 0
    assert told.lines["ai_agent_outbox_lag_seconds"] < 5


def test_events_are_counted_where_they_are_told_and_where_they_are_read_again(deployment: Server, told: Told) -> None:
    with deployment.client() as api, conversing(deployment) as socket:
        run = start(api, make_agent(api), "Hello there")
        ended(api, run["id"], seconds=30)
        last = events(api, run["id"])[-1]["seq"]
        told.grows(lambda by: by.get("ai_agent_events_published_total", 0) > 0)
        since = {"seq": 0}
        assert socket.ask("subscribe", ch=f"execution:{run['id']}", since=since)["recovered"] is True
        socket.events(last)
        told.grows(
            lambda by: (
                (by["ai_agent_events_delivered_total"], by["ai_agent_events_replayed_total"]) == (last, last)
                and by['ai_agent_ws_recoveries_total{recovered="true"}'] == 1
            )
        )
        assert told.lines["ai_agent_event_publish_seconds_count"] > 0
