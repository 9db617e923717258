"""What a stream of events costs the server, relative to bare ASGI that sends the same bytes.

python -m benchmarks.streams [--rounds N] [--seconds N]
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import httpx
import uvloop

from ai_agent.domain.events import EventType, NewEvent
from ai_agent.realtime.event_log import Position
from ai_agent.realtime.sqlite_log import SqliteLog
from ai_agent.security.api_keys import generate
from benchmarks import seed
from benchmarks.applications import SECRET_KEY
from benchmarks.processes import ROOT, Server, cleaned_up
from tests.model_server import ModelServer, Reply
from tests.servers import free_port

EVENTS = 1000
READERS = 20
STREAMS = 30
PACE_SECONDS = 0.01
KEY = generate("benchmark")

Measured = tuple[float, list[float]]
"""CPU µs of the server an event, and seconds: until a stream was whole, or until an event was heard."""


def token(text: str = " token") -> NewEvent:
    return NewEvent.of(EventType.TOKEN, {"message_id": uuid4(), "offset": 0, "text": text})


def ours(folder: Path, model_url: str) -> Server:
    """The server as it runs in production but for limits, with one run at a time: the others are live, and wait."""
    environment = seed.own_environment(
        AI_AGENT_DATA_DIR=str(folder),
        AI_AGENT_SECRET_KEY=SECRET_KEY,
        AI_AGENT_BOOTSTRAP_API_KEY=KEY,
        AI_AGENT_LOG_FORMAT="json",
        AI_AGENT_RATE_LIMIT_ENABLED="false",
        AI_AGENT_EXECUTION_CONCURRENCY="1",
        OPENAI_BASE_URL=f"{model_url}/v1",
        OPENAI_API_KEY="key",
    )
    port = free_port()
    command = [sys.executable, "-m", "ai_agent", "serve", "--port", str(port)]
    return Server(command, port=port, environment=environment, folder=folder, log=folder / "ours.log")


def bare(folder: Path, frames: bytes) -> Server:
    (folder / "frames").write_bytes(frames)
    port, options = (
        free_port(),
        ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"],
    )
    command = [sys.executable, "-m", "uvicorn", "benchmarks.reference.bare_stream:app", "--port", str(port), *options]
    environment = seed.own_environment(BENCH_FRAMES=str(folder / "frames"))
    return Server(command, port=port, environment=environment, folder=ROOT, log=folder / "bare.log")


def started(http: httpx.Client, agent: str) -> str:
    headers = {"Prefer": "respond-async"}
    answer = http.post(f"/api/v1/agents/{agent}/execute", json={"message": "x"}, headers=headers).raise_for_status()
    return str(answer.json()["id"])


async def streamed(server: Server, path: str, heard: Callable[[bytes], bool] = lambda _: True) -> int:
    """Reads a stream until its end, or until `heard` has enough; tells how many events came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    writer.write(head.encode())
    events, tail = 0, b""
    while (data := await reader.read(65536)) and heard(data):
        data = tail + data
        events += data.count(b"\nid: ")
        tail = data[-4:]
        if data.endswith(b"0\r\n\r\n"):
            break
    writer.close()
    return events


async def replayed(server: Server, path: str) -> Measured:
    """As often as there are readers, one after the other."""
    before, times, events = server.cpu_seconds(), list[float](), 0
    for _ in range(READERS):
        began = time.perf_counter()
        events += await streamed(server, path)
        times.append(time.perf_counter() - began)
    if events < READERS * EVENTS:
        raise RuntimeError(f"Only {events} events came")
    return (server.cpu_seconds() - before) / events * 1e6, times


async def live(server: Server, paths: list[str], seconds: float, tell: Callable[[], Awaitable[object]]) -> Measured:
    """Streams at once, while `tell` is called every ten milliseconds."""
    delays: list[float] = []
    end = time.time() + seconds

    def heard(data: bytes) -> bool:
        at = time.time() * 1000
        delays.extend(at - int(part[:13]) for part in data.split(b'"ts":')[1:] if part[:13].isdigit())
        return time.time() < end

    readers = [asyncio.create_task(streamed(server, path, heard)) for path in paths]
    await asyncio.sleep(0.3)
    before = server.cpu_seconds()
    while time.time() < end + 0.05:
        began = time.time()
        await tell()
        await asyncio.sleep(max(0, PACE_SECONDS - (time.time() - began)))
    events = sum(await asyncio.gather(*readers))
    return (server.cpu_seconds() - before) / events * 1e6, [delay / 1000 for delay in delays]


async def appends(folder: Path, at_a_time: int) -> tuple[float, float]:
    """CPU µs and µs of time of an append in this process."""
    log = SqliteLog(folder / f"alone-{at_a_time}.db")
    await log.open()
    rounds = 400
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        await asyncio.gather(*(log.append(f"execution:{number}", [token()]) for number in range(at_a_time)))
    total = rounds * at_a_time
    result = (time.process_time() - cpu) / total * 1e6, (time.perf_counter() - began) / total * 1e6
    await log.close()
    return result


async def filled(log: SqliteLog, http: httpx.Client, agent: str, model: ModelServer) -> str:
    """A run that has ended, of a thousand events and a few more."""
    model.go_on.clear()
    model.script(Reply("one two", pause_after=1))
    run = started(http, agent)
    while http.get(f"/api/v1/executions/{run}").json()["status"] != "running":
        await asyncio.sleep(0.05)
    for _ in range(EVENTS // 50):
        await log.append(f"execution:{run}", [token() for _ in range(50)])
    model.go_on.set()
    while http.get(f"/api/v1/executions/{run}").json()["finished_at"] is None:
        await asyncio.sleep(0.05)
    return run


def line(name: str, ours: list[Measured], bare: list[Measured]) -> str:
    ratios = sorted(one[0] / other[0] for one, other in zip(ours, bare, strict=True))
    times = sorted(one for _, some in ours for one in some)
    p50, p99 = (times[int(len(times) * part)] * 1000 for part in (0.5, 0.99))
    cpu = [statistics.median(one for one, _ in some) for some in (ours, bare)]
    ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"{name:34}{cpu[0]:8.1f}{cpu[1]:8.1f}   {ratio:22}{p50:8.1f}{p99:8.1f}"


async def main(rounds: int, seconds: float) -> None:
    with cleaned_up() as (stack, folder), ModelServer() as model:
        server = ours(folder, model.url)
        stack.callback(server.stop)
        url = f"http://127.0.0.1:{server.port}"
        http = stack.enter_context(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30))
        config = {"name": "bench", "model_config": {"provider": "openai", "model": "m"}}
        agent = http.post("/api/v1/agents", json=config).raise_for_status().json()["id"]
        log = SqliteLog(folder / "events.db")
        await log.open()
        path = f"/api/v1/executions/{await filled(log, http, agent, model)}/events"
        frames = http.get(path, headers={"Accept": "text/event-stream"}).content
        other = bare(folder, frames)
        stack.callback(other.stop)
        replays: tuple[list[Measured], list[Measured]] = ([], [])
        for _ in range(rounds):
            replays[0].append(await replayed(server, path))
            replays[1].append(await replayed(other, "/replay"))
        model.go_on.clear()
        model.longest_pause = 170.0  # The runs shall be live for as long as it is measured.
        model.script(Reply("one two", pause_after=1))
        runs = [started(http, agent) for _ in range(STREAMS)]
        paths = [f"/api/v1/executions/{run}/events" for run in runs]

        async def tell() -> None:
            await asyncio.gather(*(log.append(f"execution:{run}", [token()]) for run in runs))

        async def nothing() -> None: ...

        lives: tuple[list[Measured], list[Measured]] = ([], [])
        for _ in range(rounds):
            behind = [
                f"{one}?after={(await log.read(f'execution:{run}', Position('', 0), 0)).top}"
                for one, run in zip(paths, runs, strict=True)
            ]
            lives[0].append(await live(server, behind, seconds, tell))
            lives[1].append(await live(other, ["/live"] * STREAMS, seconds, nothing))
        model.go_on.set()
        await log.close()
        print(f"{'':34}{'CPU µs an event':>16}   {'x bare':22}{'p50 ms':>8}{'p99 ms':>8}")
        print(line(f"resume of {EVENTS} events", *replays))
        print(line(f"{STREAMS} streams, 100 events/s each", *lives))
        for at_a_time in (1, 16):
            cpu, took = await appends(folder, at_a_time)
            print(f"append, {at_a_time:2} at a time: {cpu:.0f} µs of CPU, {took:.0f} µs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    uvloop.run(main(options.rounds, options.seconds))
