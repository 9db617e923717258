"""What a run measured, as a table and as JSON."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

FLOOR = "floor"


class Measurement(msgspec.Struct, frozen=True):
    """One application under load in one mode of one round."""

    round: int
    mode: str
    application: str
    requests: int
    seconds: float
    bad: int
    cpu_us: float
    """Of the server, per request."""
    p50_ms: float
    p99_ms: float
    rss_mib: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def busy(self) -> float:
        """The part of one core that the server used; the load could not saturate it where this is far from 1."""
        return self.cpu_us * self.rate / 1e6


class Summary(msgspec.Struct, frozen=True):
    """An application in a mode: medians over the rounds."""

    mode: str
    application: str
    cpu_us: float
    ratio: float | None
    """CPU per request relative to the floor's in the same round."""
    lowest_ratio: float | None
    highest_ratio: float | None
    requests_per_second: float
    busy: float
    p50_ms: float
    p99_ms: float
    rss_mib: float
    bad: int


def summarize(measured: list[Measurement]) -> list[Summary]:
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for one in measured:
        groups.setdefault((one.mode, one.application), []).append(one)
    floor = {(one.mode, one.round): one.cpu_us for one in measured if one.application == FLOOR}
    return [_summary(group, floor) for group in groups.values()]


def _summary(group: list[Measurement], floor: dict[tuple[str, int], float]) -> Summary:
    ratios = [one.cpu_us / floor[one.mode, one.round] for one in group if (one.mode, one.round) in floor]
    return Summary(
        mode=group[0].mode,
        application=group[0].application,
        cpu_us=median(one.cpu_us for one in group),
        ratio=median(ratios) if ratios else None,
        lowest_ratio=min(ratios, default=None),
        highest_ratio=max(ratios, default=None),
        requests_per_second=median(one.rate for one in group),
        busy=median(one.busy for one in group),
        p50_ms=median(one.p50_ms for one in group),
        p99_ms=median(one.p99_ms for one in group),
        rss_mib=median(one.rss_mib for one in group),
        bad=sum(one.bad for one in group),
    )


HEADINGS = (
    *("mode", "application", "CPU µs", "x floor (min-max)", "requests/s", "busy"),
    *("p50 ms", "p99 ms", "RSS MiB", "bad"),
)


def table(rows: list[Summary]) -> str:
    return aligned([HEADINGS, *(_cells(row) for row in rows)])


def _cells(row: Summary) -> tuple[str, ...]:
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f} ({row.lowest_ratio:.2f}-{row.highest_ratio:.2f})"
    return (
        row.mode,
        row.application,
        f"{row.cpu_us:.0f}",
        ratio,
        f"{row.requests_per_second:.0f}",
        f"{row.busy:.0%}",
        f"{row.p50_ms:.1f}",
        f"{row.p99_ms:.1f}",
        f"{row.rss_mib:.0f}",
        str(row.bad),
    )


def aligned(rows: Sequence[tuple[str, ...]], *, names: int = 2) -> str:
    """Plain columns: the first ones, names, to the left, and numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (c.ljust(w) if i < names else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells))
    return "\n".join(lines)


def save(name: str, **content: Any) -> Path:
    """Writes the results and the machine they are from to a new file."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count()}
    file = folder / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    document = {"measured_at": datetime.now(UTC), "machine": machine, **content}
    file.write_bytes(msgspec.json.format(msgspec.json.encode(document)))
    return file
