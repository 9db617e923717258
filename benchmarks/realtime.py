"""What sockets cost the server, and how soon what is published reaches them.

python -m benchmarks.realtime [--rounds N] [--seconds N] [--idle N] [--only latency,recovery,queue,storm,fan-out,idle]
                              [--store redis|file]
"""

import argparse
import asyncio
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import uvloop

from ai_agent import backends
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.identity import ADMIN_SUBJECT
from ai_agent.domain.inbox import RETENTION, Lane
from ai_agent.realtime.event_log import EventLog
from ai_agent.security.api_keys import generate
from ai_agent.settings import load_settings
from ai_agent.storage import inbox
from ai_agent.storage.database import Database
from ai_agent.storage.inbox import Arrival
from benchmarks import seed
from benchmarks.applications import SECRET_KEY
from benchmarks.processes import OTHER_CORES, ROOT, Server, cleaned_up, on_cores
from benchmarks.report import aligned, save
from benchmarks.socket_client import Socket, ask, conversing
from tests.servers import PostgresServer, ValkeyServer, free_port

KEY = generate("benchmark")
SUBSCRIBERS = 500
RATE = 20
"""Messages a second to all subscribers, where what is measured is a delay."""
IN_FLIGHT = 8
"""Messages that are on their way at once, where what is measured is how many the server manages."""
CHANNELS, MESSAGES_PER_SECOND = 1000, 500
REPLAYED, RECOVERIES = 300, 200
QUEUED, RETURNS = 1000, 20
STORM, MISSED, STORMS = 2000, 5, 3
FEW = 10
PARTS = ["latency", "recovery", "queue", "storm", "fan-out", "idle"]
EVENT = b'{"t":"event"'
TEXT = "What a person or a model says in a sentence or two."

Publish = Callable[[NewEvent], Awaitable[object]]


class Ours(msgspec.Struct):
    """The server, and its event log as another process of the deployment has it."""

    server: Server
    log: EventLog

    async def listener(self, channel: str) -> Socket:
        socket = await conversing(self.server.port, KEY)
        await ask(socket, "live", t="subscribe", ch=channel)
        return socket


def environment(stack: ExitStack, folder: Path, store: str) -> dict[str, str]:
    """As in production, but that one owner may have any number of sockets."""
    settings = {
        "AI_AGENT_DATA_DIR": str(folder),
        "AI_AGENT_SECRET_KEY": SECRET_KEY,
        "AI_AGENT_BOOTSTRAP_API_KEY": KEY,
        "AI_AGENT_LOG_FORMAT": "json",
        "AI_AGENT_WS_MAX_CONNECTIONS_PER_USER": "100000",
        "AI_AGENT_WS_MAX_CONNECTIONS": "100000",
    }
    if store == "redis":
        postgres, valkey = PostgresServer(), ValkeyServer()
        stack.callback(postgres.stop)
        stack.callback(valkey.stop)
        url = asyncio.run(seed.create_postgres_database(postgres.url, "realtime"))
        settings |= {"AI_AGENT_DATABASE_URL": url, "AI_AGENT_REDIS_URL": valkey.url}
        seed.upgrade(url, folder)
    return settings


def ours(folder: Path, settings: dict[str, str]) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "ai_agent", "serve", "--port", str(port)]
    environment = seed.own_environment(**settings)
    return Server(command, port=port, environment=environment, folder=folder, log=folder / "ours.log")


def bare(folder: Path, name: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.reference.bare_socket:app", "--port", str(port)]
    command += ["--loop", "uvloop", "--ws", "websockets-sansio", "--ws-per-message-deflate", "false"]
    command += ["--no-access-log", "--log-level", "warning"]
    return Server(command, port=port, environment=dict(os.environ), folder=ROOT, log=folder / f"{name}.log")


def news() -> NewEvent:
    return NewEvent.of(EventType.APPLICATION, {"at": time.time(), "text": TEXT})


def age_ms(message: bytes) -> float:
    """Since the event in a message was made."""
    return (time.time() - float(message.partition(b'"at":')[2].partition(b",")[0])) * 1000


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


async def in_parts(jobs: list[Callable[[], Awaitable[Socket]]], at_once: int = 50) -> list[Socket]:
    made: list[Socket] = []
    for first in range(0, len(jobs), at_once):
        made += await asyncio.gather(*(job() for job in jobs[first : first + at_once]))
    return made


async def closed(sockets: list[Socket]) -> None:
    await asyncio.gather(*(socket.close() for socket in sockets))
    await asyncio.sleep(0.5)


class Idle(msgspec.Struct):
    application: str
    connections: int
    kib_a_connection: float
    cpu_percent: float
    """Of a core, while nothing happens."""


async def idle(name: str, server: Server, count: int, listener: Callable[[str], Awaitable[Socket]]) -> Idle:
    """Each listens to a channel of its own. A few come first, so that code that is loaded late is not counted."""

    async def open_some(first: int, last: int) -> list[Socket]:
        return await in_parts([lambda n=n: listener(f"topic:idle-{n}") for n in range(first, last)])  # type: ignore[misc]

    sockets = await open_some(0, FEW)
    await asyncio.sleep(1)
    before = server.rss_mib()
    sockets += await open_some(FEW, count)
    await asyncio.sleep(2)
    grown, cpu = server.rss_mib() - before, server.cpu_seconds()
    await asyncio.sleep(10)
    cpu = server.cpu_seconds() - cpu
    await closed(sockets)
    return Idle(name, count, grown * 1024 / (count - FEW), cpu * 10)


class Delays(msgspec.Struct):
    what: str
    count: int
    missing: int
    p50_ms: float
    p99_ms: float
    largest_ms: float

    @classmethod
    def of(cls, what: str, delays: list[float], expected: int) -> "Delays":
        p50, p99 = percentile(delays, 0.5), percentile(delays, 0.99)
        return cls(what, len(delays), expected - len(delays), p50, p99, max(delays))


async def latency(own: Ours, seconds: float) -> Delays:
    """From an event's making to its hearing, one listener a channel."""
    names = [f"topic:latency-{number}" for number in range(CHANNELS)]
    sockets = await in_parts([lambda n=name: own.listener(n) for name in names])  # type: ignore[misc]
    delays: list[float] = []

    def hear(message: bytes) -> None:
        if message.startswith(EVENT):  # The first event of a channel comes behind the name of its epoch.
            delays.append(age_ms(message))

    for socket in sockets:
        socket.hear = hear
    sent: set[asyncio.Task[object]] = set()
    count, began = int(MESSAGES_PER_SECOND * seconds), time.perf_counter()
    for number in range(count):
        await asyncio.sleep(began + number / MESSAGES_PER_SECOND - time.perf_counter())
        sent.add(asyncio.create_task(own.log.append(random.choice(names), [news()])))
    await asyncio.gather(*sent)
    await asyncio.sleep(1)
    await closed(sockets)
    return Delays.of(f"publish to socket, {MESSAGES_PER_SECOND}/s, {CHANNELS} channels", delays, count)


async def recovery(own: Ours) -> Delays:
    """From the opening of a socket until it has heard all that it had missed."""
    channel = "topic:recovery"
    first = await own.log.append(channel, [news()])
    for _ in range(REPLAYED // 50):
        await own.log.append(channel, [news() for _ in range(50)])
    resume = [{"ch": channel, "epoch": first.epoch, "seq": first.seq}]
    times: list[float] = []
    for _ in range(RECOVERIES):
        began = time.perf_counter()
        socket = await conversing(own.server.port, KEY, resume=resume)
        heard = 0
        while not (message := await socket.next()).startswith(b'{"t":"live"'):
            heard += message.startswith(EVENT)
        times.append((time.perf_counter() - began) * 1000)
        if heard != REPLAYED:
            raise RuntimeError(f"{heard} events came and not {REPLAYED}")
        await socket.close()
    return Delays.of(f"recovery of {REPLAYED} events", times, RECOVERIES)


async def returning(own: Ours, database: Database) -> Delays:
    """From the opening of a socket until its user has heard, and acknowledged, what waited for them."""
    times: list[float] = []
    for _ in range(RETURNS):
        await wait_in_queue(database)
        began = time.perf_counter()
        socket = await conversing(own.server.port, KEY)
        socket.send(msgspec.json.encode({"t": "subscribe", "ch": f"user:{ADMIN_SUBJECT}"}))
        lanes: list[int] = []
        while len(lanes) < QUEUED:
            message = await socket.next()
            if message.startswith(EVENT):
                event = msgspec.json.decode(message)
                lanes.append(event["lane"])
                if len(lanes) % 64 == 0 or len(lanes) in {QUEUED // 10, QUEUED}:
                    ack = {"t": "ack", "ch": event["ch"], "lane": event["lane"], "seq": event["seq"]}
                    socket.send(msgspec.json.encode(ack))
        times.append((time.perf_counter() - began) * 1000)
        if lanes != sorted(lanes):
            raise RuntimeError("What is urgent did not come first")
        await ask(socket, "pong", t="ping")
        await asyncio.sleep(0.2)
        await socket.close()
    return Delays.of(f"{QUEUED} queued events to a returning user", times, RETURNS)


async def wait_in_queue(database: Database) -> None:
    """Puts events into the queue of the key's user, a tenth of them urgent."""
    for lane, count in ((Lane.NORMAL, QUEUED - QUEUED // 10), (Lane.URGENT, QUEUED // 10)):
        said = to_json({"title": "news", "body": TEXT, "data": {}})
        arrivals = [Arrival(new_id(), EventType.NOTIFICATION, said, None, now(), None) for _ in range(count)]
        async with database.unit_of_work() as rows:
            await inbox.append(rows, ADMIN_SUBJECT, lane, arrivals, RETENTION[lane].events)


async def storms(own: Ours) -> list[Delays]:
    """All clients lose their connections at once and come back at once, each for what its channel told meanwhile.

    Of each storm: from its beginning until each client has heard all; the largest is the time it takes as a whole.
    """
    return [await storm(own, number) for number in range(STORMS)]


async def storm(own: Ours, number: int) -> Delays:
    names = [f"topic:storm-{number}-{client}" for client in range(STORM)]
    sockets = await in_parts([lambda n=name: own.listener(n) for name in names])  # type: ignore[misc]
    told = await asyncio.gather(*(own.log.append(name, [news() for _ in range(MISSED)]) for name in names))
    await closed(sockets)
    epochs = [one.epoch for one in told]
    began = time.perf_counter()
    times: list[float] = []

    async def come_back(name: str, epoch: str) -> Socket:
        socket = await conversing(own.server.port, KEY, resume=[{"ch": name, "epoch": epoch, "seq": 0}])
        heard = 0
        while not (message := await socket.next()).startswith(b'{"t":"live"'):
            heard += message.startswith(EVENT)
        times.append((time.perf_counter() - began) * 1000)
        if heard != MISSED:
            raise RuntimeError(f"{heard} events came and not {MISSED}")
        return socket

    await closed(await asyncio.gather(*map(come_back, names, epochs)))
    return Delays.of(f"return of {STORM} clients at once", times, STORM)


class FanOut(msgspec.Struct):
    application: str
    round: int
    mode: str
    delivered: int
    missing: int
    seconds: float
    cpu_us: float
    """Of the server, for each delivery."""
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        return self.delivered / self.seconds


class Heard:
    """What all subscribers have heard together."""

    def __init__(self) -> None:
        self.delivered = 0
        self.delays: list[float] = []
        self._more = asyncio.Event()

    def hear(self, message: bytes) -> None:
        if b'"at":' not in message:  # The first event of a channel comes behind the name of its epoch.
            return
        self.delivered += 1
        if self.delivered % 7 == 0:  # Enough of them; each costs the load more than its delivery.
            self.delays.append(age_ms(message))
        if self.delivered % SUBSCRIBERS == 0:
            self._more.set()

    async def at_least(self, deliveries: int, seconds: float) -> None:
        """Waits for them, `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                while self.delivered < deliveries:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            return


async def at_a_rate(publish: Publish, _: Heard, seconds: float) -> int:
    began = time.perf_counter()
    for number in range(int(RATE * seconds)):
        await asyncio.sleep(began + number / RATE - time.perf_counter())
        await publish(news())
    return int(RATE * seconds)


async def as_many_as_possible(publish: Publish, heard: Heard, seconds: float) -> int:
    end = time.perf_counter() + seconds
    for number in itertools.count():
        await heard.at_least((number - IN_FLIGHT + 1) * SUBSCRIBERS, 10)
        if time.perf_counter() > end:
            return number
        await publish(news())
    raise AssertionError


MODES = {"at a rate": at_a_rate, "at most": as_many_as_possible}


async def fan_out(
    name: str, server: Server, number: int, seconds: float, sockets: list[Socket], publish: Publish
) -> list[FanOut]:
    measured = []
    for mode, publishing in MODES.items():
        heard = Heard()
        for socket in sockets:
            socket.hear = heard.hear
        before, began = server.cpu_seconds(), time.perf_counter()
        sent = await publishing(publish, heard, seconds)
        await heard.at_least(sent * SUBSCRIBERS, 5)
        took, cpu = time.perf_counter() - began, server.cpu_seconds() - before
        delays = percentile(heard.delays, 0.5), percentile(heard.delays, 0.99)
        missing = sent * SUBSCRIBERS - heard.delivered
        cpu_us = cpu / heard.delivered * 1e6
        measured.append(FanOut(name, number, mode, heard.delivered, missing, took, cpu_us, *delays))
    return measured


async def our_fan_out(own: Ours, number: int, seconds: float) -> list[FanOut]:
    channel = f"topic:fan-out-{number}"
    sockets = await in_parts([lambda: own.listener(channel)] * SUBSCRIBERS)
    measured = await fan_out(
        "ai-agent", own.server, number, seconds, sockets, lambda event: own.log.append(channel, [event])
    )
    await closed(sockets)
    return measured


async def bare_fan_out(name: str, server: Server, number: int, seconds: float) -> list[FanOut]:
    sockets = await in_parts([lambda: Socket.open(server.port, "/sub")] * SUBSCRIBERS)
    speaker = await Socket.open(server.port, "/pub")

    async def publish(event: NewEvent) -> None:
        frame = {"t": "event", "ch": f"topic:fan-out-{number}", "seq": 100, "eid": event.eid, "type": event.type}
        speaker.send(msgspec.json.encode(frame | {"ts": event.ts, "data": event.data}))

    measured = await fan_out(name, server, number, seconds, sockets, publish)
    await closed([*sockets, speaker])
    return measured


async def fan_outs(own: Ours, bares: dict[str, Server], rounds: int, seconds: float) -> list[FanOut]:
    measured: list[FanOut] = []
    for number in range(rounds):
        print(f"fan-out, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        # Another order each time, so that nobody always follows the same neighbour.
        for name in random.sample(["ai-agent", *bares], len(bares) + 1):
            if name in bares:
                measured += await bare_fan_out(name, bares[name], number, seconds)
            else:
                measured += await our_fan_out(own, number, seconds)
    return measured


def fan_out_table(measured: list[FanOut]) -> str:
    head = ("application", "mode", "deliveries/s", "x bare (min-max)", "CPU µs", "x bare (min-max)", "p50 ms", "p99 ms")
    rows = [(*head, "missing")]
    for mode in MODES:
        of_bare = {one.round: one for one in measured if (one.mode, one.application) == (mode, "bare")}
        for name in dict.fromkeys(one.application for one in measured):
            some = [one for one in measured if (one.mode, one.application) == (mode, name)]
            rows.append(
                (
                    *(name, mode, f"{statistics.median(one.rate for one in some):.0f}"),
                    ratios([one.rate / of_bare[one.round].rate for one in some]),
                    f"{statistics.median(one.cpu_us for one in some):.1f}",
                    ratios([one.cpu_us / of_bare[one.round].cpu_us for one in some]),
                    f"{statistics.median(one.p50_ms for one in some):.1f}",
                    f"{statistics.median(one.p99_ms for one in some):.1f}",
                    str(sum(one.missing for one in some)),
                )
            )
    return aligned(rows)


def ratios(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def delays_table(measured: list[Delays]) -> str:
    rows = [("", "count", "missing", "p50 ms", "p99 ms", "largest ms")]
    for one in measured:
        numbers = (one.p50_ms, one.p99_ms, one.largest_ms)
        rows.append((one.what, str(one.count), str(one.missing), *(f"{number:.1f}" for number in numbers)))
    return aligned(rows, names=1)


def idle_table(measured: list[Idle]) -> str:
    rows = [("application", "connections", "KiB each", "CPU %")]
    rows += [
        (one.application, str(one.connections), f"{one.kib_a_connection:.1f}", f"{one.cpu_percent:.1f}")
        for one in measured
    ]
    return aligned(rows, names=1)


async def measure(own: Server, bares: dict[str, Server], settings: dict[str, str], options: argparse.Namespace) -> None:
    log = backends.log_of(load_settings(settings))
    await log.open()
    ours = Ours(own, log)
    idles, delays, fans = list[Idle](), list[Delays](), list[FanOut]()
    if "latency" in options.only:
        print("latency", file=sys.stderr, flush=True)
        delays.append(await latency(ours, 2 * options.seconds))
    if "recovery" in options.only:
        print("recovery", file=sys.stderr, flush=True)
        delays.append(await recovery(ours))
    if "queue" in options.only:
        print("queue", file=sys.stderr, flush=True)
        database = backends.database_of(load_settings(settings))
        await database.open()
        delays.append(await returning(ours, database))
        await database.close()
    if "storm" in options.only:
        print("storm", file=sys.stderr, flush=True)
        delays += await storms(ours)
    if "fan-out" in options.only:
        fans = await fan_outs(ours, bares, options.rounds, options.seconds)
    if "idle" in options.only:
        print("idle", file=sys.stderr, flush=True)
        idles.append(await idle("ai-agent", own, options.idle, ours.listener))
        server = bares["bare"]
        idles.append(await idle("bare", server, options.idle, lambda _: Socket.open(server.port, "/sub")))
    await log.close()
    tables = [(delays, delays_table), (fans, fan_out_table), (idles, idle_table)]
    print("\n\n".join(table(measured) for measured, table in tables if measured))  # type: ignore[operator]
    print(save(f"realtime-{options.store}", delays=delays, fan_out=fans, idle=idles))


def main(options: argparse.Namespace) -> None:
    with cleaned_up() as (stack, folder), on_cores(OTHER_CORES):
        settings = environment(stack, folder, options.store)
        own = ours(folder, settings)
        stack.callback(own.stop)
        bares = {name: bare(folder, name) for name in ("bare", "bare again")}
        for server in bares.values():
            stack.callback(server.stop)
        uvloop.run(measure(own, bares, settings, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--only", type=lambda names: names.split(","), default=PARTS)
    parser.add_argument("--store", choices=["redis", "file"], default="redis")
    main(parser.parse_args())
