"""The heart of a worker: which leases it keeps, and which runs it stops."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID, uuid4

from ai_agent.execution.heart import Heart
from ai_agent.storage.leases import Claim, Held

BEAT = 0.05


class Rows:
    """What the database knows: runs by id, with their fences."""

    def __init__(self) -> None:
        self.held: dict[UUID, Held] = {}
        self.renewed: list[set[UUID]] = []
        self.fails: Exception | None = None

    async def renew_all(self, _: str, ids: Sequence[UUID]) -> list[Held]:
        self.renewed.append(set(ids))
        if self.fails is not None:
            failure, self.fails = self.fails, None
            raise failure
        return [self.held[one] for one in ids if one in self.held]

    async def to_cancel(self, _: str) -> list[Held]:
        return [run for run in self.held.values() if run.cancel_requested]


def claim(fence: int = 1) -> Claim:
    return cast("Claim", type("Claimed", (), {"id": uuid4(), "fence": fence})())


def beating(rows: Rows, *claims: Claim, let_go: Claim | None = None, seconds: float = 0.7) -> list[tuple[UUID, str]]:
    """What was stopped, and why, while a heart held these claims."""
    stopped: list[tuple[UUID, str]] = []

    async def scenario() -> None:
        heart = Heart(cast("Any", rows), "me", BEAT)
        for one in claims:
            heart.hold(one, lambda why, one=one: stopped.append((one.id, why)))  # type: ignore[misc]
        if let_go is not None:
            heart.let_go(let_go)
        heart.start()
        await asyncio.sleep(seconds)
        await heart.close()

    asyncio.run(scenario())
    return stopped


def test_only_what_is_held_is_renewed_so_that_others_find_what_was_let_go() -> None:
    rows, kept, left = Rows(), claim(), claim()
    rows.held = {one.id: Held(one.id, 1, False) for one in (kept, left)}
    assert beating(rows, kept, left, let_go=left) == []
    assert rows.renewed
    assert all(renewed == {kept.id} for renewed in rows.renewed)


def test_a_run_that_another_worker_has_is_lost() -> None:
    rows, mine = Rows(), claim(fence=1)
    rows.held = {mine.id: Held(mine.id, 2, False)}
    assert (mine.id, "lost") in beating(rows, mine)


def test_a_run_that_somebody_wants_to_stop_is_cancelled() -> None:
    rows, mine, other = Rows(), claim(), claim()
    rows.held = {mine.id: Held(mine.id, 1, True), other.id: Held(other.id, 1, False)}
    assert {(mine.id, "cancelled")} == set(beating(rows, mine, other))


def test_a_beat_that_fails_whatever_the_error_is_followed_by_others() -> None:
    rows, mine = Rows(), claim()
    rows.held, rows.fails = {mine.id: Held(mine.id, 1, False)}, RuntimeError("of a driver's")
    assert beating(rows, mine, seconds=1.3) == []
    assert len(rows.renewed) > 1
