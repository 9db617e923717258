"""A load balancer: it asks each node whether it is ready, and tries the next one where nobody listens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.servers import free_port

LOOK_SECONDS = 0.1
"""How often a node is asked."""


class Balancer:
    """Connections go to the ready nodes in turn. `turned_away` counts those for which there was none."""

    def __init__(self, *ports: int):
        self._ready = dict.fromkeys(ports, True)
        self._turn = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.turned_away = 0
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Balancer"]:
        looking = [asyncio.create_task(self._look(port)) for port in self._ready]
        try:
            async with await asyncio.start_server(self._serve, "127.0.0.1", self.port):
                yield self
        finally:
            for task in (*looking, *self._serving):
                task.cancel()
            await asyncio.gather(*looking, *self._serving, return_exceptions=True)
            await asyncio.sleep(0.05)  # Until transports have closed their sockets.

    async def _look(self, port: int) -> None:
        while True:
            self._ready[port] = await _is_ready(port)
            await asyncio.sleep(LOOK_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._join(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            for port in self._candidates():
                with contextlib.suppress(OSError):
                    there, onward = await asyncio.open_connection("127.0.0.1", port)
                    break
            else:
                self.turned_away += 1
                return
            with contextlib.closing(onward):
                await asyncio.gather(_pump(reader, onward), _pump(there, writer))

    def _candidates(self) -> list[int]:
        """Those that are ready first, another one of them each time."""
        self._turn += 1
        ports = list(self._ready)
        turned = ports[self._turn % len(ports) :] + ports[: self._turn % len(ports)]
        return sorted(turned, key=lambda port: not self._ready[port])


async def _is_ready(port: int) -> bool:
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                writer.write(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
    except (OSError, TimeoutError):
        return False
    return answer.startswith(b"HTTP/1.1 200 ")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()  # As the other end has done.
