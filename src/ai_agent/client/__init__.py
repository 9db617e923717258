"""The Python client: `RealtimeClient` for channels over a WebSocket, `Client` for the REST API and its streams."""

from ai_agent.client.errors import ClientError, Closed, Refused, SubscriptionEnded, Unreachable
from ai_agent.client.events import Event
from ai_agent.client.notices import EpochChanged, Gap, Live
from ai_agent.client.realtime import HistoryPage, RealtimeClient
from ai_agent.client.subscription import Subscription

__all__ = [
    "ClientError",
    "Closed",
    "EpochChanged",
    "Event",
    "Gap",
    "HistoryPage",
    "Live",
    "RealtimeClient",
    "Refused",
    "Subscription",
    "SubscriptionEnded",
    "Unreachable",
]
