"""The socket under a conversation: opened, read, written, and given up when it is silent."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from ai_agent.client.codec import SUBPROTOCOLS, decode, encode
from ai_agent.client.conversation import Conversation
from ai_agent.client.errors import Closed

OPENING_SECONDS = 10.0
"""For the socket, and again for the server's welcome."""
CLOSING_SECONDS = 1.0
MESSAGE_BYTES = 64 * 1024 * 1024
ABNORMAL = 1006
"""No close frame has come. Source: RFC 6455, 7.1.5."""

log = logging.getLogger("ai_agent.client")


class Link:
    """`heard` is called when there may be notices. `silence_seconds` and `dropped` are its owner's to set."""

    def __init__(self, url: str, codec: str, conversation: Conversation, heard: Callable[[], None]):
        self._url = url.replace("http", "ws", 1) + "/ws"
        self._codec = codec
        self._conversation = conversation
        self._heard = heard
        self._written = asyncio.Event()
        self.silence_seconds = OPENING_SECONDS
        self.dropped = False

    def write(self) -> None:
        """There is something in the outbox."""
        self._written.set()

    async def run(self, token: str | None) -> int:
        """Until the socket is closed; answers with its code. Raises Closed where there is no such endpoint."""
        self.silence_seconds, self.dropped = OPENING_SECONDS, False
        try:
            socket = await self._opening()
            self._conversation.opened(token)
            return await self._converse(socket)
        except InvalidStatus as error:
            return _answered(error.response.status_code, self._url)
        except (OSError, TimeoutError, InvalidHandshake) as error:
            log.debug("no connection to %s: %s", self._url, error)
            return ABNORMAL

    def _opening(self) -> connect:
        return connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOLS[self._codec])],
            open_timeout=OPENING_SECONDS,
            close_timeout=CLOSING_SECONDS,
            ping_interval=None,  # The protocol has pings of its own.
            max_size=MESSAGE_BYTES,
            compression=None,
        )

    async def _converse(self, socket: ClientConnection) -> int:
        writing = asyncio.create_task(self._write(socket))
        try:
            return await self._read(socket)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else ABNORMAL
        except TimeoutError:
            log.info("%s is silent: giving the connection up", self._url)
            return ABNORMAL
        except msgspec.MsgspecError as error:
            log.warning("%s has sent what is no frame: %s", self._url, error)
            return ABNORMAL
        finally:
            writing.cancel()
            await socket.close()

    async def _read(self, socket: ClientConnection) -> int:
        self.write()
        while not self.dropped:
            async with asyncio.timeout(self.silence_seconds):
                message = await socket.recv()
            for frame in decode(message):
                self._conversation.receive(frame)
            self.write()
            self._heard()
        return ABNORMAL

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # Which the reader hears, too.
            while True:
                await self._written.wait()
                self._written.clear()
                while self._conversation.outbox:
                    await socket.send(encode(self._conversation.outbox.popleft(), self._codec))


def _answered(status: int, url: str) -> int:
    """A server that is starting, or too busy, answers otherwise in a moment. Raises Closed."""
    if status == 429 or status >= 500:
        return ABNORMAL
    raise Closed(status, "refused", f"{url} is no WebSocket of an AI agent server")
