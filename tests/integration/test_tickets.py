"""Tickets for sockets: good once, for half a minute, and for no longer than what they were made from."""

import asyncio
import time
from collections.abc import Callable

import pytest

from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.identity import Tier
from ai_agent.security.api_keys import REFRESH_TOKEN, TICKET, generate
from ai_agent.services import tokens as module
from ai_agent.storage.database import Database
from tests.conftest import KEY, SECRET
from tests.integration.test_database import Scenario, run
from tests.nodes import ACTOR, Node, end_key, node
from tests.signed_tokens import claims, signed

__all__ = ["run"]

Run = Callable[[Scenario], None]


def test_a_ticket_is_its_owner_once(run: Run) -> None:
    async def scenario(database: Database) -> None:
        async with node(database) as here, node(database) as there:
            _, key = await here.key("agents:read", "topics:read", owner="bob", tier=Tier.PREMIUM)
            by_key = await here.identity.verify(key)
            by_token = await here.identity.verify((await here.tokens.issue(by_key, ACTOR)).access_token)
            foreign = await here.identity.verify(signed("HS256", claims(sub="carol"), key=SECRET))
            for principal in (by_key, by_token, foreign):
                made = await here.tokens.ticket(principal)
                assert made.expires_in == 30
                assert await there.identity.redeem_ticket(made.ticket) == principal
                for one in (here, there):
                    with pytest.raises(AuthenticationError):
                        await one.identity.redeem_ticket(made.ticket)

    run(scenario)


def test_of_many_who_redeem_a_ticket_at_once_one_wins(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here, there = Node(database), Node(database)
        _, key = await here.key()
        made = await here.tokens.ticket(await here.identity.verify(key))
        tries = [one.identity.redeem_ticket(made.ticket) for one in (here, there) for _ in range(5)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["AuthenticationError"] * 9 + ["Principal"]

    run(scenario)


def test_a_ticket_ends_with_what_it_was_made_from(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database)
        stored, key = await here.key()
        principal = await here.identity.verify(key)
        tokens = await here.tokens.issue(principal, ACTOR)
        of_family = await here.tokens.ticket(await here.identity.verify(tokens.access_token))
        await here.tokens.revoke(tokens.refresh_token, ACTOR)
        of_key = await here.tokens.ticket(principal)
        await end_key(database, stored.id)
        _, short = await here.key(seconds=0.3)
        of_short = await here.tokens.ticket(await here.identity.verify(short))
        soon = signed("HS256", claims(exp=time.time() + 0.3), key=SECRET)
        of_soon = await here.tokens.ticket(await here.identity.verify(soon))
        await asyncio.sleep(0.35)
        for made in (of_family, of_key, of_short, of_soon):
            with pytest.raises(AuthenticationError):
                await here.identity.redeem_ticket(made.ticket)

    run(scenario)


def test_a_ticket_has_its_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICKET_SECONDS", 0)

    async def scenario(database: Database) -> None:
        here = Node(database)
        _, key = await here.key()
        made = await here.tokens.ticket(await here.identity.verify(key))
        with pytest.raises(AuthenticationError):
            await here.identity.redeem_ticket(made.ticket)

    run(scenario)


@pytest.mark.parametrize(
    "ticket", [generate("test", TICKET), "wt-test-0", "", KEY, generate("test", REFRESH_TOKEN)], ids=range(5)
)
def test_a_ticket_that_nobody_made_opens_nothing(run: Run, ticket: str) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database, secrets=(SECRET, "an-older-secret-key-of-32-characters"))
        async with database.unit_of_work():  # Nobody else can write on SQLite now, nor needs to.
            async with asyncio.timeout(0.5):
                with pytest.raises(AuthenticationError):
                    await here.identity.redeem_ticket(ticket)

    run(scenario)
