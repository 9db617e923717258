"""Credentials of a socket that end: told in time, and ended a while behind their end."""

import asyncio
from datetime import timedelta

import pytest

from ai_agent.api.websocket import expiry as module
from ai_agent.api.websocket.expiry import Expiry
from ai_agent.domain.fields import now


class Watched:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "WARNING_SECONDS", 0.2)
        monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
        self.warnings: list[int] = []
        self.ends = 0
        self.expiry = Expiry(lambda frame: self.warnings.append(frame.in_ms), self._end)

    def _end(self) -> None:
        self.ends += 1

    def until(self, seconds: float | None) -> None:
        self.expiry.watch(None if seconds is None else now() + timedelta(seconds=seconds))


def test_the_client_is_warned_once_and_ended_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        watched, loop = Watched(monkeypatch), asyncio.get_running_loop()
        begun = loop.time()
        watched.until(0.3)
        assert watched.warnings == []
        while not watched.warnings:
            await asyncio.sleep(0.005)
        assert loop.time() - begun > 0.09
        assert 0 < watched.warnings[0] <= 200
        while not watched.ends:
            await asyncio.sleep(0.005)
        assert loop.time() - begun > 0.39, "The grace goes on"
        await asyncio.sleep(0.1)
        assert (len(watched.warnings), watched.ends) == (1, 1)

    asyncio.run(scenario())


def test_who_comes_with_little_left_is_warned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        watched = Watched(monkeypatch)
        watched.until(0.1)
        assert 0 < watched.warnings[0] <= 100
        watched.until(-0.05)
        assert (watched.warnings[1], watched.ends) == (0, 0)
        watched.until(-0.2)
        assert watched.ends == 1

    asyncio.run(scenario())


def test_who_renews_in_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        watched = Watched(monkeypatch)
        watched.until(0.1)
        await asyncio.sleep(0.15)
        watched.until(0.4)
        await asyncio.sleep(0.1)
        assert (len(watched.warnings), watched.ends) == (1, 0)
        await asyncio.sleep(0.15)
        assert (len(watched.warnings), watched.ends) == (2, 0)
        watched.until(None)
        await asyncio.sleep(0.3)
        assert (len(watched.warnings), watched.ends) == (2, 0)

    asyncio.run(scenario())


def test_a_clock_that_is_set_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        watched = Watched(monkeypatch)
        monkeypatch.setattr(module, "LONGEST_SECONDS", 0.02)
        watched.until(3600)
        monkeypatch.setattr(module, "now", lambda: now() + timedelta(hours=2))
        await asyncio.sleep(0.05)
        assert (len(watched.warnings), watched.ends) == (0, 1)
        watched.expiry.stop()

    asyncio.run(scenario())
