"""`ai-agent tail`: the events of a channel, a line each, as they happen."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import rich_click as click
from rich.markup import escape
from rich.text import Text

from ai_agent.cli.screen import console, printable
from ai_agent.cli.server import explained, local_key
from ai_agent.client import Event, Gap, Live, Notice, RealtimeClient
from ai_agent.domain.channels import ChannelKind, parse
from ai_agent.domain.events import TERMINAL
from ai_agent.domain.frames import Since, Subscribe
from ai_agent.domain.inbox import Lane
from ai_agent.settings import Settings


def tail(
    channel: str | None,
    url: str,
    api_key: str | None,
    since: str | None,
    start: str | None,
    types: list[str],
    settings: Settings,
    *,
    as_json: bool,
) -> None:
    """Prints until Ctrl-C, or the end of the execution; without a channel the caller's own queue.

    Raises click.UsageError, ConfigurationError.
    """
    wanted = None if channel is None else _wanted(channel, since, start, types)
    try:
        with explained():
            key, told = api_key or local_key(settings), _json_line if as_json else _line
            asyncio.run(_print(wanted, url, key, told) if wanted else _print_queue(url, key, types, told))
    except KeyboardInterrupt:
        return


def _wanted(channel: str, since: str | None, start: str | None, types: list[str]) -> Subscribe:
    if since is not None and start is not None:
        raise click.UsageError("--since and --from exclude each other")
    try:
        parse(channel)
    except ValueError:
        raise click.UsageError(f"{channel} is no channel; those are such as session:ID, execution:ID, system") from None
    frame = {"t": "subscribe", "ch": channel, "since": _position(since), "from": start, "types": types}
    try:
        return msgspec.convert(frame, Subscribe)
    except msgspec.ValidationError:
        message = "--from takes now, earliest or last:N, --types up to 32 patterns of up to 100 characters"
        raise click.UsageError(message) from None


def _position(since: str | None) -> Since | None:
    if since is None:
        return None
    if (parts := re.fullmatch(r"(.{0,64}):([0-9]{1,15})", since)) is None:
        raise click.UsageError(f"{since} is no EPOCH:SEQ, as it stands in what was printed")
    return Since(int(parts[2]), parts[1])


async def _print(wanted: Subscribe, url: str, key: str, told: Callable[[Notice], None]) -> None:
    ends = parse(wanted.ch).kind is ChannelKind.EXECUTION
    async with RealtimeClient(url, key, name="tail", patience=0, on_outage=_reconnecting) as client:
        async for notice in client.subscribe(wanted.ch, since=wanted.since, from_=wanted.from_, types=wanted.types):
            told(notice)
            if ends and isinstance(notice, Event) and notice.type in TERMINAL:
                return


async def _print_queue(url: str, key: str, types: list[str], told: Callable[[Notice], None]) -> None:
    """What was printed is acknowledged, and printed never again."""
    async with RealtimeClient(url, key, name="tail", patience=0, on_outage=_reconnecting) as client:
        async for notice in client.queue(types=types):
            told(notice)
            if isinstance(notice, Event):
                client.acknowledge(notice)


def _reconnecting() -> None:
    click.echo("(reconnecting)", err=True)


def _json_line(notice: Notice) -> None:
    kind = "event" if isinstance(notice, Event) else type(notice).__name__.lower()
    line = msgspec.json.encode({"t": kind, **msgspec.to_builtins(notice)}).decode()
    console.print(line, markup=False, soft_wrap=True)


def _line(notice: Notice) -> None:
    if isinstance(notice, Event):
        numbering = notice.epoch if notice.lane is None else Lane(notice.lane).name.lower()
        position = f"{numbering}:{notice.seq}"
        head = f"[dim]{_clock(notice.ts)} {escape(position)}[/] [bold]{escape(printable(notice.type))}[/]"
        _show(head, msgspec.json.encode(notice.data).decode())
    else:
        console.print(f"[yellow]{escape(_remark(notice))}[/]", soft_wrap=True)


def _show(head: str, data: str) -> None:
    """What is longer than the terminal's line is cut; a file or a pipe gets all."""
    line = Text.from_markup(f"{head} ").append(printable(data))
    if console.is_terminal:
        line.truncate(console.width, overflow="ellipsis")
    console.print(line, soft_wrap=True)


def _remark(notice: Notice) -> str:
    match notice:
        case Live():
            return "(live)"
        case Gap(first=first, last=last, reason=reason):
            return f"({first} to {last} are gone: {reason})"
        case _:
            return f"(numbered anew: {notice.epoch}:{notice.seq})"


def _clock(ts: int) -> str:
    """The time of day where the terminal is."""
    return f"{datetime.fromtimestamp(ts / 1000, UTC).astimezone():%H:%M:%S}"
