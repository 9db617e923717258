"""What a node remembers of credentials: as long as it hears of changes, and not a moment longer than it may."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from ai_agent.domain.errors import AuthenticationError, ServiceUnavailable
from ai_agent.domain.fields import now
from ai_agent.security import jwks as jwks_module
from ai_agent.security.jwks import Jwks
from ai_agent.security.jwt import LEEWAY_SECONDS
from ai_agent.services import credential_changes as following
from ai_agent.services import identity as module
from ai_agent.services.identity import IdentityService
from ai_agent.settings import MAX_TOKEN_SECONDS, Algorithm
from ai_agent.storage import credential_changes, migrations
from ai_agent.storage.database import Database
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import credential_changes as changes
from ai_agent.storage.tables import sequences
from tests.integration.test_database import Scenario, opened, run
from tests.nodes import ACTOR, Node, end_key, node
from tests.signed_tokens import claims, jwk, jwks, signed

__all__ = ["run"]

Run = Callable[[Scenario], None]


async def refused(identity: IdentityService, token: str) -> None:
    with pytest.raises(AuthenticationError):
        await identity.verify(token)


async def forgotten(identity: IdentityService, *tokens: str) -> float:
    """Seconds until nothing of these is remembered."""
    began = time.monotonic()
    while any(identity.known(token) for token in tokens):
        assert time.monotonic() - began < 2
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that look more often, and trust for a shorter time."""
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(following, "TRUST_SECONDS", 0.4)


class Reader:
    """A reader that can be held up and broken."""

    def __init__(self, inner: Any):
        self._inner = inner
        self.reads = 0
        self.broken = False
        self.after: Callable[[], Awaitable[None]] | None = None

    def hold(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Events that tell when the next row was read, and when it may be answered."""
        read, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            read.set()
            await go_on.wait()

        self.after = wait
        return read, go_on

    async def first(self, statement: Any, **parameters: Any) -> Any:
        self.reads += 1
        row = await self._inner.first(statement, **parameters)
        if self.after is not None:
            wait, self.after = self.after, None
            await wait()
        return row

    async def all(self, statement: Any, **parameters: Any) -> Any:
        if self.broken:
            raise ServiceUnavailable("The database is away")
        return await self._inner.all(statement, **parameters)


@pytest.mark.usefixtures("quick")
def test_a_verified_key_is_remembered_and_costs_no_query(run: Run) -> None:
    async def scenario(database: Database) -> None:
        async with node(database) as here:
            _, key = await here.key("agents:read")
            assert here.identity.known(key) is None
            principal = await here.identity.verify(key)
            assert (principal.subject, principal.scopes) == ("alice", frozenset({"agents:read"}))
            await asyncio.sleep(0.6)
            assert here.identity.known(key) == principal

    run(scenario)


def test_a_revoked_key_is_forgotten_on_every_node_within_a_second_with_all_tokens_of_it(run: Run) -> None:
    async def scenario(database: Database) -> None:
        async with node(database) as here, node(database) as there:
            stored, key = await here.key()
            _, other = await here.key()
            principal = await there.identity.verify(key)
            token = (await here.tokens.issue(principal, ACTOR)).access_token
            for one in (here, there):
                for credential in (key, token, other):
                    await one.identity.verify(credential)
            await end_key(database, stored.id)
            assert max(await asyncio.gather(*(forgotten(one.identity, key, token) for one in (here, there)))) < 1
            for one in (here, there):
                await refused(one.identity, key)
                await refused(one.identity, token)
                assert one.identity.known(other), "Others are not touched"

    run(scenario)


def test_a_key_whose_row_changed_is_read_anew(run: Run) -> None:
    async def scenario(database: Database) -> None:
        async with node(database) as here:
            stored, key = await here.key()
            await here.identity.verify(key)
            await end_key(database, stored.id, expires_at=now() + timedelta(hours=1))
            await forgotten(here.identity, key)
            assert (await here.identity.verify(key)).key_id == stored.id

    run(scenario)


@pytest.mark.usefixtures("quick")
def test_a_node_that_does_not_hear_asks_the_database(run: Run) -> None:
    async def scenario(database: Database) -> None:
        reader = database.reader = Reader(database.reader)
        async with node(database) as here:
            stored, key = await here.key()
            await here.identity.verify(key)
            token = (await here.tokens.issue(await here.identity.verify(key), ACTOR)).access_token
            await here.identity.verify(token)
            assert here.identity.known(key)
            assert here.identity.known(token)
            reader.broken = True
            assert 0.2 < await forgotten(here.identity, key, token) <= 0.5
            before = reader.reads
            await here.identity.verify(key)
            await here.identity.verify(key)
            assert reader.reads == before + 2
            await end_key(database, stored.id)
            await refused(here.identity, key)
            await refused(here.identity, token)
            reader.broken = False
            await asyncio.sleep(0.2)
            assert here.identity.known(key) is None
            assert here.identity.known(token) is None

    run(scenario)


@pytest.mark.usefixtures("quick")
def test_a_node_that_hears_again_trusts_again(run: Run) -> None:
    async def scenario(database: Database) -> None:
        reader = database.reader = Reader(database.reader)
        async with node(database) as here:
            _, key = await here.key()
            reader.broken = True
            await here.identity.verify(key)
            await asyncio.sleep(0.5)
            assert here.identity.known(key) is None
            reader.broken = False
            await asyncio.sleep(0.2)
            assert here.identity.known(key)

    run(scenario)


def test_a_change_that_is_heard_while_a_verification_is_under_way_is_not_forgotten_by_it(run: Run) -> None:
    async def scenario(database: Database) -> None:
        reader = database.reader = Reader(database.reader)
        here = Node(database)
        await here.identity.changes.look()
        stored, key = await here.key()

        async def revoked_and_heard() -> None:
            await end_key(database, stored.id)
            await here.identity.changes.look()

        reader.after = revoked_and_heard
        await here.identity.verify(key)  # It was good when it was read.
        assert here.identity.known(key) is None
        await refused(here.identity, key)

    run(scenario)


def test_more_changes_than_one_page_holds_are_heard_in_one_look(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_changes, "AT_ONCE", 2)

    async def scenario(database: Database) -> None:
        here = Node(database)
        await here.identity.changes.look()
        stored, key = await here.key()
        await here.identity.verify(key)
        for hours in range(1, 6):
            await end_key(database, (await here.key())[0].id, now() + timedelta(hours=hours))
        await end_key(database, stored.id)
        await here.identity.changes.look()
        assert here.identity.known(key) is None

    run(scenario)


def test_no_more_is_remembered_than_there_is_room_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)

    async def scenario(database: Database) -> None:
        async with node(database) as here:
            keys = [(await here.key())[1] for _ in range(3)]
            for key in keys:
                await here.identity.verify(key)
            assert [here.identity.known(key) is not None for key in keys] == [False, True, True]

    run(scenario)


def test_a_key_is_not_remembered_beyond_its_end(run: Run) -> None:
    async def scenario(database: Database) -> None:
        async with node(database) as here:
            _, key = await here.key(seconds=0.6)
            principal = await here.identity.verify(key)
            token = (await here.tokens.issue(principal, ACTOR)).access_token
            await here.identity.verify(token)
            await asyncio.sleep(0.65)
            for credential in (key, token):
                assert here.identity.known(credential) is None
                await refused(here.identity, credential)

    run(scenario)


def test_a_remembered_key_is_read_again_after_a_while(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEY_SECONDS", 0.3)

    async def scenario(database: Database) -> None:
        async with node(database) as here:
            _, key = await here.key()
            await here.identity.verify(key)
            assert here.identity.known(key)
            assert 0.2 < await forgotten(here.identity, key) < 0.4

    run(scenario)


def test_a_token_of_somebody_elses_is_forgotten_with_its_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_module, "REFRESH_SECONDS", 0.05)

    async def scenario(database: Database) -> None:
        members = [jwk("RS256", "stays"), jwk("ES256", "leaves")]

        async def fetch() -> bytes:
            return jwks(*members)

        async with node(database, jwks=Jwks(fetch, list(Algorithm))) as here:
            staying, leaving = signed("RS256", kid="stays"), signed("ES256", kid="leaves")
            for token in (staying, leaving):
                await here.identity.verify(token)
                assert here.identity.known(token)
            members.pop()
            await forgotten(here.identity, leaving)
            await refused(here.identity, leaving)
            assert here.identity.known(staying)

    run(scenario)


def test_a_token_is_not_remembered_beyond_its_end(run: Run) -> None:
    async def scenario(database: Database) -> None:
        async with node(database) as here:
            token = signed("HS256", claims(exp=time.time() - 29.6), key="a-secret-key-for-tests-of-32-characters")
            await here.identity.verify(token)
            await asyncio.sleep(0.45)
            assert here.identity.known(token) is None
            await refused(here.identity, token)

    run(scenario)


def test_those_who_bring_a_credential_at_once_share_one_look_at_it(run: Run) -> None:
    async def scenario(database: Database) -> None:
        reader = database.reader = Reader(database.reader)
        here = Node(database)
        _, key = await here.key()
        _, other = await here.key()
        before = reader.reads
        principals = await asyncio.gather(*(here.identity.verify(key) for _ in range(20)), here.identity.verify(other))
        assert reader.reads == before + 2
        assert len(set(principals[:20])) == 1 != principals[20].key_id
        for _ in range(2):
            await here.identity.verify(key)
        assert reader.reads == before + 4, "Nobody is answered with what had ended before he came"
        await here.close()

    run(scenario)


def test_the_first_of_them_may_leave(run: Run) -> None:
    async def scenario(database: Database) -> None:
        reader = database.reader = Reader(database.reader)
        here = Node(database)
        stored, key = await here.key()
        read, go_on = reader.hold()
        first = asyncio.create_task(here.identity.verify(key))
        await read.wait()
        second = asyncio.create_task(here.identity.verify(key))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        go_on.set()
        assert (await second).key_id == stored.id
        await here.close()

    run(scenario)


def test_nobody_joins_a_look_from_before_a_change_that_was_heard(run: Run) -> None:
    async def scenario(database: Database) -> None:
        reader = database.reader = Reader(database.reader)
        here = Node(database)
        stored, key = await here.key()
        read, go_on = reader.hold()
        first = asyncio.create_task(here.identity.verify(key))
        await read.wait()
        await end_key(database, stored.id)
        await here.identity.changes.look()
        async with asyncio.timeout(1):
            await refused(here.identity, key)
        go_on.set()
        assert await first
        await here.close()

    run(scenario)


def test_a_credential_was_good_lately_until_something_speaks_against_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEY_SECONDS", 0.0)

    async def scenario(database: Database) -> None:
        here = Node(database)
        (one, revoked), (two, refused_key) = await here.key(), await here.key()
        _, short = await here.key(seconds=0.3)
        for credential in (revoked, refused_key, short):
            assert here.identity.may_be_guessed(credential)
            await here.identity.verify(credential)
            assert here.identity.known(credential) is None, "Nobody listens for changes here"
            assert not here.identity.may_be_guessed(credential)
        await end_key(database, two.id)
        await refused(here.identity, refused_key)
        assert here.identity.may_be_guessed(refused_key)
        await end_key(database, one.id)
        await here.identity.changes.look()
        await asyncio.sleep(0.31)
        assert all(here.identity.may_be_guessed(credential) for credential in (revoked, short))
        assert not here.identity.may_be_guessed("a.jwt.perhaps"), "Its signature is looked at, not the database"
        await here.close()

    run(scenario)


def test_a_credential_was_good_lately_for_a_while_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATELY_SECONDS", 0.1)

    async def scenario(database: Database) -> None:
        here = Node(database)
        _, key = await here.key()
        await here.identity.verify(key)
        assert not here.identity.may_be_guessed(key)
        await asyncio.sleep(0.11)
        assert here.identity.may_be_guessed(key)
        await here.close()

    run(scenario)


def test_a_change_is_told_for_as_long_as_a_token_can_be_good(run: Run) -> None:
    async def scenario(database: Database) -> None:
        stored, _ = await Node(database).key()
        await end_key(database, stored.id)
        kept = max(await database.reader.all(_TOLD_UNTIL))
        assert kept > now() + timedelta(seconds=MAX_TOKEN_SECONDS + LEEWAY_SECONDS - 5)

    run(scenario)


def test_who_cannot_be_announced_is_not_revoked_and_waits_no_longer_than_an_answer_may_take(
    empty_postgres: str,
) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres)
        async with opened(empty_postgres) as database:
            here = Node(database)
            stored, key = await here.key()
            async with database.unit_of_work() as rows:
                await rows.run(_RESTORED, value=7)
                began = time.monotonic()
                with pytest.raises(ServiceUnavailable):
                    await end_key(database, stored.id)
                assert 0.9 < time.monotonic() - began < 2
            await here.identity.verify(key)
            await end_key(database, stored.id)
            await refused(here.identity, key)

    asyncio.run(scenario())


def test_a_database_from_before_the_last_change_is_heard_anew(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database)
        stored, key = await here.key()
        before = await database.reader.first(_NEWEST)
        await end_key(database, (await here.key())[0].id)
        await here.identity.changes.look()
        await here.identity.verify(key)
        async with database.unit_of_work() as rows:
            await rows.run(_RESTORED, value=before)
            await rows.run(_UNTOLD, seq=before)
        await here.identity.changes.look()
        assert here.identity.known(key) is None, "It may be revoked there"
        await here.identity.verify(key)
        await end_key(database, stored.id)
        await here.identity.changes.look()
        assert here.identity.known(key) is None, "The new numbers are heard"

    run(scenario)


_NEWEST = Statement(sa.select(sequences.c.value), int)
_RESTORED: Statement[None] = Statement(sa.update(sequences).values(value=sa.bindparam("value")))
_UNTOLD: Statement[None] = Statement(sa.delete(changes).where(changes.c.seq > sa.bindparam("seq")))
_TOLD_UNTIL = Statement(sa.select(changes.c.until), datetime)
_TOLD = Statement(sa.select(changes.c.credential), str)
_LONG_AGO: Statement[None] = Statement(
    sa.update(changes)
    .where(changes.c.credential == sa.bindparam("credential", type_=changes.c.credential.type))
    .values(until=sa.bindparam("until", type_=changes.c.until.type))
)


def test_changes_that_concern_nobody_any_more_are_removed(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database)
        old, new = (await here.key())[0].id, (await here.key())[0].id
        await end_key(database, old)
        async with database.unit_of_work() as rows:
            await rows.run(_LONG_AGO, credential=f"key:{old}", until=now() - timedelta(hours=2))
        await end_key(database, new)
        assert await here.identity.changes.forget_expired() >= 1
        kept = set(await database.reader.all(_TOLD))
        assert (f"key:{old}" in kept, f"key:{new}" in kept) == (False, True)

    run(scenario)
