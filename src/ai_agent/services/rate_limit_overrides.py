"""Limits that the operator gives single principals. Each node knows all of them, and hears of changes within a second.

It hears of them as of credentials that change, and asks then for all: there are few.
"""

import asyncio
from collections.abc import Set
from contextlib import suppress

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.audit import Action, Actor, Target
from ai_agent.domain.errors import NotFound
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.identity import Principal, Tier
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.rate_limit_overrides import (
    LimitTexts,
    OverrideRateLimits,
    PrincipalRateLimits,
    RateLimitOverride,
    RateLimitOverrideFilter,
    RateLimitOverridePage,
)
from ai_agent.services.paging import Pager
from ai_agent.services.rate_limits import RateLimitService
from ai_agent.storage import audit, rate_limit_overrides
from ai_agent.storage.database import Database

RETRY_SECONDS = 0.5

log = structlog.get_logger()


class RateLimitOverrides:
    def __init__(self, database: Database, pager: Pager, limits: RateLimitService):
        self._database = database
        self._pager = pager
        self._limits = limits
        self._news = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._news.set()  # Where the database is away just now.
        with suppress(Exception):
            await self._read()
            self._news.clear()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        await cancel_and_wait(self._following)

    def changed(self, credentials: Set[str] | None) -> None:
        """Told of all changes that nodes have to hear of."""
        if credentials is None or rate_limit_overrides.CHANGED in credentials:
            self._news.set()

    async def _read(self) -> None:
        self._limits.override(await rate_limit_overrides.all_of_them(self._database.reader))

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._read()
            except Exception:
                log.warning("rate_limit_overrides_unread", exc_info=True)
                await asyncio.sleep(RETRY_SECONDS)
                self._news.set()

    async def list(
        self, principal: Principal, wanted: RateLimitOverrideFilter, request: PageRequest
    ) -> RateLimitOverridePage:
        return await self._pager.page(
            RateLimitOverridePage, rate_limit_overrides.LIST, principal.subject, wanted, request
        )

    async def get(self, user_id: str, tier: Tier) -> PrincipalRateLimits:
        """What a principal whose credentials are of this tier may do, and what is left of it."""
        principal = Principal(user_id, frozenset(), tier)
        override = await rate_limit_overrides.get(self._database.reader, user_id)
        return PrincipalRateLimits(
            user_id=user_id,
            tier=self._limits.tier(principal),
            limits=await self._limits.states(principal),
            override=override,
        )

    async def put(self, actor: Actor, user_id: str, wanted: OverrideRateLimits) -> RateLimitOverride:
        at = now()
        override = RateLimitOverride(
            id=new_id(),
            user_id=user_id,
            tier=wanted.tier,
            limits=to_json(wanted.limits or LimitTexts()),
            reason=wanted.reason,
            expires_at=wanted.expires_at,
            created_at=at,
            updated_at=at,
        )
        async with self._database.unit_of_work() as rows:
            stored = await rate_limit_overrides.put(rows, override)
            details = msgspec.to_builtins(wanted)
            await audit.record(rows, actor, Action.RATE_LIMITS_OVERRIDDEN, Target("principal", user_id), details)
        self._news.set()
        return stored

    async def delete(self, actor: Actor, user_id: str) -> None:
        """Raises NotFound."""
        async with self._database.unit_of_work() as rows:
            if not await rate_limit_overrides.delete(rows, user_id):
                raise NotFound("Override not found")
            await audit.record(rows, actor, Action.RATE_LIMITS_RESTORED, Target("principal", user_id))
        self._news.set()
