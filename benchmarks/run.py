"""Server CPU per request, as ratios to the floor. README.md tells how to read it.

just bench [--rounds N] [--seconds N] [--modes get,list,post] [--only floor,ai-agent]
"""

import argparse
import asyncio
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report, seed
from benchmarks.applications import MODES, SECRET_KEY, Application, check, ours, reference, requests
from benchmarks.load import CONNECTIONS, Result
from benchmarks.processes import OTHER_CORES, ROOT, SERVER_CORES, Server, cleaned_up, on_cores
from benchmarks.report import FLOOR, Measurement
from tests.servers import PostgresServer, ValkeyServer

NAMES = (FLOOR, f"{FLOOR} again", "ai-agent", "without limits", "original design")
WARM_UP_SECONDS = 0.5


class Running(msgspec.Struct):
    """An application that is up, and a file of requests for each mode."""

    name: str
    server: Server
    requests: dict[str, Path]


class Stores(msgspec.Struct):
    reference_url: str
    our_url: str
    redis_url: str
    keys: dict[str, str]


def start_stores(stack: ExitStack, folder: Path) -> Stores:
    postgres = PostgresServer()
    stack.callback(postgres.stop)
    valkey = ValkeyServer()
    stack.callback(valkey.stop)

    async def seeded() -> Stores:
        reference_url = await seed.create_postgres_database(postgres.url, "reference")
        our_url = await seed.create_postgres_database(postgres.url, "ai_agent")
        await seed.seed_reference(reference_url)
        await seed.seed_ours(our_url, folder)
        return Stores(reference_url, our_url, valkey.url, await seed.create_keys(our_url, SECRET_KEY))

    return asyncio.run(seeded())


def applications(stores: Stores, folder: Path) -> list[Application]:
    floor, control, own, unlimited, original = NAMES
    redis = {"AI_AGENT_REDIS_URL": stores.redis_url}
    return [
        reference(floor, "floor", stores.reference_url, stores.redis_url),
        reference(control, "floor", stores.reference_url, stores.redis_url),
        ours(own, stores.our_url, stores.keys, folder, **redis),
        ours(unlimited, stores.our_url, stores.keys, folder, **redis, AI_AGENT_RATE_LIMIT_ENABLED="false"),
        reference(original, "original_design", stores.reference_url, stores.redis_url),
    ]


def start(stack: ExitStack, application: Application, modes: list[str], folder: Path) -> Running:
    server = application.start(folder)
    stack.callback(server.stop)
    check(application, server)
    files = {mode: folder / f"{application.name}-{mode}.requests" for mode in modes}
    for mode, file in files.items():
        file.write_bytes(msgspec.msgpack.encode(requests(application, server, mode)))
    return Running(application.name, server, files)


def load(running: Running, mode: str, seconds: float) -> Result:
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(running.server.port)]
    command += ["--requests", str(running.requests[mode]), "--seconds", str(seconds), "--connections", str(CONNECTIONS)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, start_new_session=True)
    return msgspec.json.decode(done.stdout, type=Result)


def measure(running: Running, number: int, mode: str, seconds: float) -> Measurement:
    before = running.server.cpu_seconds()
    result = load(running, mode, seconds)
    used = running.server.cpu_seconds() - before
    return Measurement(
        round=number,
        mode=mode,
        application=running.name,
        requests=result.requests,
        seconds=result.seconds,
        bad=result.bad,
        cpu_us=used / max(result.requests, 1) * 1e6,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        rss_mib=running.server.rss_mib(),
    )


def measure_all(running: list[Running], stores: Stores, options: argparse.Namespace) -> list[Measurement]:
    for one in running:
        for mode in options.modes:
            load(one, mode, WARM_UP_SECONDS)
    measured = []
    for number in range(options.rounds):
        remove_made_sessions(stores)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for mode in options.modes:
            # Another order each time, so that nobody always follows the same neighbour.
            order = random.sample(running, len(running))
            measured += [measure(one, number, mode, options.seconds) for one in order]
    return measured


def remove_made_sessions(stores: Stores) -> None:
    statements = f"DELETE FROM sessions WHERE title = '{seed.TITLE}'", "VACUUM sessions"
    for url in (stores.reference_url, stores.our_url):
        asyncio.run(seed.execute(url, *statements))


def run(options: argparse.Namespace) -> list[Measurement]:
    with cleaned_up() as (stack, folder), on_cores(OTHER_CORES):
        stores = start_stores(stack, folder)
        chosen = [one for one in applications(stores, folder) if one.name in options.only]
        running = []
        for one in chosen:
            remove_made_sessions(stores)  # Two of them share a database.
            running.append(start(stack, one, options.modes, folder))
        return measure_all(running, stores, options)


def show(measured: list[Measurement], options: argparse.Namespace) -> int:
    """The exit code: 1 when a response was bad."""
    # The order of the options, not the shuffled one.
    measured = sorted(measured, key=lambda one: (options.modes.index(one.mode), NAMES.index(one.application)))
    rows = report.summarize(measured)
    print(report.table(rows))
    file = report.save("http", options=vars(options), summary=rows, measurements=measured)
    pinned = "the server had a core of its own" if SERVER_CORES else "nothing was pinned to a core"
    print(f"\n{CONNECTIONS} connections, {pinned}. All measurements: {file.relative_to(ROOT)}")
    bad = sum(row.bad for row in rows)
    if bad:
        print(f"{bad} bad responses: these numbers mean nothing", file=sys.stderr)
    return 1 if bad else 0


def _some_of(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"no such thing: {', '.join(unknown)}; there are: {', '.join(known)}")
        return chosen

    return parse


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each measurement")
    parser.add_argument("--modes", type=_some_of(MODES), default=list(MODES), help=",".join(MODES))
    parser.add_argument("--only", type=_some_of(NAMES), default=list(NAMES), help=",".join(NAMES))
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    return show(run(options), options)


if __name__ == "__main__":
    sys.exit(main())
