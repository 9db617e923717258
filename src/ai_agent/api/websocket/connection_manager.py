"""The open sockets of this node."""

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai_agent.api.websocket.connection import Connection


class ConnectionManager:
    def __init__(self) -> None:
        # A pid alone is 1 in every container.
        self.node = f"{socket.gethostname()[:40]}-{os.getpid()}"
        self.connections: dict[str, Connection] = {}

    async def add(self, connection: "Connection") -> None:
        """Called when the conversation is open, before `welcome`."""
        self.connections[connection.conn_id] = connection

    async def remove(self, connection: "Connection") -> None:
        """Called when the socket is closed, also for one that was never added."""
        self.connections.pop(connection.conn_id, None)
