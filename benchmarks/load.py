"""A closed loop of HTTP/1.1 requests on keep-alive connections: each connection asks again as soon as it is answered.

    python -m benchmarks.load --port 8000 --requests FILE --seconds 2

FILE is a MessagePack list of whole requests as bytes. Prints one JSON object. Costs about 20 µs of CPU per request.
"""

import argparse
import asyncio
import itertools
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

CONNECTIONS = 32
GRACE_SECONDS = 10.0


class Result(msgspec.Struct):
    requests: int
    seconds: float
    bad: int
    """Answers that are not 2xx, and connections that broke."""
    p50_ms: float
    p99_ms: float


class Load:
    """What the connections share: the requests, the deadline and the counts."""

    def __init__(self, requests: list[bytes], seconds: float, connections: int):
        shuffled = random.sample(requests, len(requests))
        self.requests = itertools.cycle(shuffled)
        self.deadline = time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.bad = 0
        self._running = connections
        self._started = time.perf_counter()
        self.finished = asyncio.get_running_loop().create_future()

    def connection_ended(self) -> None:
        self._running -= 1
        if self._running == 0:
            self.finished.set_result(None)

    def result(self) -> Result:
        ordered = sorted(self.latencies) or [0.0]
        p50, p99 = (round(ordered[int(len(ordered) * share)] * 1000, 3) for share in (0.50, 0.99))
        return Result(len(self.latencies), time.perf_counter() - self._started, self.bad, p50, p99)


class Connection(asyncio.Protocol):
    def __init__(self, load: Load):
        self._load = load
        self._received = b""
        self._sent = 0.0
        self._waiting = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self._waiting = self._sent < self._load.deadline
        if self._waiting:
            self._transport.write(next(self._load.requests))
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or len(self._received) < end + 4 + content_length(self._received[:end]):
            return
        self._load.latencies.append(time.perf_counter() - self._sent)
        if self._received[9:10] != b"2":
            self._load.bad += 1
        self._received = b""
        self._ask()

    def connection_lost(self, _: Exception | None) -> None:
        if self._waiting:
            self._load.bad += 1
        self._load.connection_ended()


def content_length(head: bytes) -> int:
    """The length of the body. Raises ValueError for a response that does not tell it."""
    value = head.lower().partition(b"\r\ncontent-length:")[2]
    return int(value.partition(b"\r\n")[0])


async def run(port: int, requests: list[bytes], seconds: float, connections: int) -> Result:
    """Raises OSError when nobody listens, TimeoutError when an answer does not come."""
    loop = asyncio.get_running_loop()
    load = Load(requests, seconds, connections)
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    async with asyncio.timeout(seconds + GRACE_SECONDS):
        await load.finished
    return load.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    options = parser.parse_args()
    requests = msgspec.msgpack.decode(options.requests.read_bytes(), type=list[bytes])
    result = uvloop.run(run(options.port, requests, options.seconds, options.connections))
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()
