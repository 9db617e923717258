"""The Python client: `RealtimeClient` for channels over a WebSocket, `Client` for the REST API and its streams."""

from ai_agent.client.errors import ClientError, Closed, Refused, SubscriptionEnded, Unreachable
from ai_agent.client.events import Event
from ai_agent.client.notices import EpochChanged, Gap, Live, Notice
from ai_agent.client.realtime import HistoryPage, RealtimeClient
from ai_agent.client.rest import Client
from ai_agent.client.subscription import Subscription
from ai_agent.domain.presence import Present

__all__ = [
    "Client",
    "ClientError",
    "Closed",
    "EpochChanged",
    "Event",
    "Gap",
    "HistoryPage",
    "Live",
    "Notice",
    "Present",
    "RealtimeClient",
    "Refused",
    "Subscription",
    "SubscriptionEnded",
    "Unreachable",
]
