"""A TCP proxy that can be cut, as a network can, and that can be led to another server."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from tests.servers import free_port


class FaultProxy:
    """Cut, it accepts connections and lets nothing through; what is sent meanwhile is lost, and connections with it."""

    def __init__(self, target: int):
        self._target = target
        self.port = free_port()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    async def _run(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._serve, "127.0.0.1", self.port):
            self._ready.set()
            await self._stopped.wait()
            self._drop()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(onward)
        await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not self._is_cut:
                    writer.write(data)
        # Of a connection that is cut off nobody hears that it has ended.
        if not self._is_cut:
            writer.transport.abort()
            self._writers.discard(writer)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        self._is_cut = True
        try:
            yield
        finally:
            self._is_cut = False
            self._loop.call_soon_threadsafe(self._drop)

    def lead_to(self, target: int) -> None:
        """Ends all connections; the next ones are to another server."""
        self._target = target
        self._loop.call_soon_threadsafe(self._drop)

    def _drop(self) -> None:
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(5)
