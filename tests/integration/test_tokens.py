"""Tokens from a key to their end: two servers on one database, and each hears of the other within a second."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
import sqlalchemy as sa

from ai_agent.domain.audit import AuditEntry
from ai_agent.domain.errors import AuthenticationError, Conflict
from ai_agent.domain.fields import now, to_json
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.identity import Tier
from ai_agent.security.api_keys import REFRESH_TOKEN, KeyHasher, generate
from ai_agent.services import tokens as module
from ai_agent.storage.database import Database
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import api_keys, audit_log, refresh_tokens, token_families, ws_tickets
from tests.conftest import KEY, SECRET, Server
from tests.integration.test_database import Scenario, opened, run
from tests.integration.test_identity import make_key
from tests.nodes import ACTOR, Node, end_key
from tests.signed_tokens import claims, signed

__all__ = ["run"]

Run = Callable[[Scenario], None]
Tokens = dict[str, Any]


@pytest.fixture(scope="module")
def other(server: Server, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second server on the same database."""
    started = Server(database_url, tmp_path_factory.mktemp("other"))
    yield started
    started.stop()


def post(server: Server, path: str, body: object = None, *, key: str = "", **headers: str) -> httpx.Response:
    with server.client(key) as client:
        return client.post(path, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()})


def get_tokens(server: Server, key: str = KEY) -> Tokens:
    answer = post(server, "/auth/token", key=key)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refresh(server: Server, token: str, **headers: str) -> httpx.Response:
    return post(server, "/auth/refresh", {"refresh_token": token}, **headers)


def status(server: Server, token: str) -> int:
    with server.client(token) as client:
        return client.get("/auth/me").status_code


def assert_soon_refused(credentials: list[str], *servers: Server) -> None:
    """No request that begins a second from now, or later, is answered with one of these."""
    revoked = time.monotonic()
    for server, credential in [(server, credential) for credential in credentials for server in servers]:
        with server.client(credential) as client:
            began = time.monotonic()
            while client.get("/auth/me").status_code != 401:
                assert began - revoked < 1
                began = time.monotonic()


def revoke(database_url: str, key_id: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as database:
            await end_key(database, uuid.UUID(key_id))

    asyncio.run(scenario())


_AUDITED = Statement(
    sa.select(*(audit_log.c[name] for name in AuditEntry.__struct_fields__))
    .where(audit_log.c.action == sa.bindparam("action"))
    .order_by(audit_log.c.id),
    AuditEntry,
)


def last_audited(database_url: str, action: str) -> AuditEntry:
    async def scenario() -> list[AuditEntry]:
        async with opened(database_url) as database:
            return await database.reader.all(_AUDITED, action=action)

    return asyncio.run(scenario())[-1]


def test_a_key_gets_tokens_that_do_what_the_key_does(server: Server) -> None:
    made = make_key(server, "token-owner", "sessions:read", "sessions:write")
    answer = post(server, "/auth/token", key=made["key"])
    tokens = answer.json()
    assert (answer.headers["cache-control"], tokens["token_type"], tokens["expires_in"]) == ("no-store", "Bearer", 1800)
    with server.client(made["key"]) as by_key, server.client(tokens["access_token"]) as by_token:
        session = by_token.post("/sessions", json={"title": "mine"}).json()["id"]
        assert by_key.get(f"/sessions/{session}").status_code == 200
        assert by_token.get("/agents").status_code == 403
        me = by_token.get("/auth/me").json()
        assert {name: me[name] for name in ("user", "role", "tier", "scopes", "key_id")} == {
            "user": "token-owner",
            "role": "user",
            "tier": "authenticated",
            "scopes": ["sessions:read", "sessions:write"],
            "key_id": made["id"],
        }
        assert me["expires_at"] is not None
        assert {limit["scope"] for limit in me["limits"]} >= {"total", "read", "session_create"}
        by_its_key = by_key.get("/auth/me").json()
        assert by_its_key | {"limits": []} == me | {"expires_at": None, "limits": []}


def test_an_admin_is_told_to_be_one(server: Server) -> None:
    for credential in (KEY, get_tokens(server)["access_token"]):
        with server.client(credential) as client:
            me = client.get("/auth/me").json()
            assert (me["user"], me["role"], me["scopes"]) == ("admin", "admin", ["admin"])


def test_our_tokens_are_jwts_that_name_their_owner_and_no_secret(server: Server) -> None:
    found = jwt.decode(get_tokens(server)["access_token"], SECRET, algorithms=["HS256"])
    assert (found["sub"], found["scope"], found["exp"] - found["iat"]) == ("admin", "admin", 1800)
    assert uuid.UUID(found["jti"]) != uuid.UUID(found["ai_agent_family"])


def test_tokens_are_made_from_an_api_key_only(server: Server) -> None:
    foreign = signed("HS256", claims(role="admin"), key=SECRET)
    for token in (get_tokens(server)["access_token"], foreign):
        refused = post(server, "/auth/token", key=token)
        assert (refused.status_code, refused.json()["code"]) == (403, "authorization_error")


def test_a_token_that_somebody_else_signed_with_the_secret_is_good(server: Server) -> None:
    token = signed("HS256", claims(sub="customer-7", scope="sessions:read", tier="premium"), key=SECRET)
    with server.client(token) as client:
        assert client.get("/sessions").status_code == 200
        assert client.post("/sessions", json={}).status_code == 403
        me = client.get("/auth/me").json()
        assert (me["user"], me["tier"], me["key_id"]) == ("customer-7", "premium", None)


def test_whoever_has_the_secret_speaks_for_no_api_key(server: Server) -> None:
    made = make_key(server, "key-owner", "sessions:read")
    forged = signed("HS256", claims(sub="customer-7", ai_agent_key=made["id"]), key=SECRET)
    with server.client(forged) as client:
        assert client.get("/auth/me").json()["key_id"] is None
    assert post(server, "/auth/token", key=forged).status_code == 403


def test_a_token_of_a_family_is_its_owners_and_of_its_key(server: Server) -> None:
    made, other = make_key(server, "family-owner", "sessions:read"), make_key(server, "other", "sessions:read")
    own = jwt.decode(get_tokens(server, made["key"])["access_token"], SECRET, algorithms=["HS256"])
    with server.client(jwt.encode(own | {"ai_agent_key": other["id"]}, SECRET)) as client:
        me = client.get("/auth/me").json()
    assert (me["user"], me["key_id"]) == ("family-owner", made["id"])
    assert status(server, jwt.encode(own | {"sub": "other"}, SECRET)) == 401


def test_all_that_is_refused_is_refused_alike(server: Server) -> None:
    bad = [
        signed("HS256", claims(exp=1), key=SECRET),
        signed("HS256", claims(sub=None), key=SECRET),
        signed("HS256", key="another-secret-of-at-least-32-characters"),
        signed("RS256"),
        signed("HS256", claims(ai_agent_family=str(uuid.uuid4())), key=SECRET),
        "garbage",
        "a.b.c",
        KEY[:-1] + ("0" if KEY[-1] != "0" else "1"),
        generate("test"),
    ]
    answers = set()
    for token in bad:
        with server.client(token) as client:
            answer = client.get("/sessions")
        body = answer.json()
        for changing in ("correlation_id", "timestamp"):
            del body[changing]
        answers.add((answer.status_code, str(body), answer.headers["www-authenticate"]))
    assert len(answers) == 1


def test_a_refresh_gives_new_tokens_and_the_old_access_token_goes_on(server: Server, other: Server) -> None:
    first = get_tokens(server)
    second = refresh(other, first["refresh_token"])
    assert (second.status_code, second.headers["cache-control"]) == (200, "no-store")
    assert second.json()["refresh_token"] != first["refresh_token"]
    assert second.json()["access_token"] != first["access_token"]
    third = refresh(server, second.json()["refresh_token"]).json()
    for tokens in (first, second.json(), third):
        assert status(server, tokens["access_token"]) == status(other, tokens["access_token"]) == 200


def test_a_refresh_token_that_comes_again_ends_its_family_on_every_node(
    server: Server, other: Server, database_url: str
) -> None:
    first, unrelated = get_tokens(server), get_tokens(server)
    second = refresh(server, first["refresh_token"]).json()
    for tokens in (first, second):
        assert status(server, tokens["access_token"]) == status(other, tokens["access_token"]) == 200
    assert refresh(other, first["refresh_token"]).status_code == 401
    assert_soon_refused([second["access_token"], first["access_token"]], server, other)
    assert refresh(server, second["refresh_token"]).status_code == 401
    assert status(server, unrelated["access_token"]) == 200
    family = jwt.decode(first["access_token"], SECRET, algorithms=["HS256"])["ai_agent_family"]
    assert last_audited(database_url, "token.reused").target_id == family


def test_of_many_refreshes_at_once_one_wins(server: Server, other: Server) -> None:
    token = get_tokens(server)["refresh_token"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: refresh((server, other)[number % 2], token), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    # The others were a second use.
    assert_soon_refused([won["access_token"]], server, other)


def test_a_revoked_family_is_refused_on_every_node(server: Server, other: Server, database_url: str) -> None:
    first = get_tokens(server)
    second = refresh(server, first["refresh_token"]).json()
    assert status(server, first["access_token"]) == status(other, second["access_token"]) == 200
    # Also an old token of the family ends it.
    assert post(other, "/auth/revoke", {"refresh_token": first["refresh_token"]}).status_code == 204
    assert_soon_refused([first["access_token"], second["access_token"]], server, other)
    assert refresh(server, second["refresh_token"]).status_code == 401
    entry = last_audited(database_url, "token.revoked")
    assert (entry.actor, entry.address) == ("admin", "127.0.0.1")


@pytest.mark.parametrize("token", [generate("test", REFRESH_TOKEN), "rt-test-0", "x", KEY], ids=range(4))
def test_a_refresh_token_that_nobody_knows_is_revoked_already_and_gets_nothing(server: Server, token: str) -> None:
    assert post(server, "/auth/revoke", {"refresh_token": token}).status_code == 204
    refused = refresh(server, token)
    assert (refused.status_code, refused.json()["code"]) == (401, "authentication_error")


def test_a_revoked_key_ends_its_tokens_on_every_node(server: Server, other: Server, database_url: str) -> None:
    made = make_key(server, "leaver", "sessions:read")
    tokens = get_tokens(server, made["key"])
    for credential in (made["key"], tokens["access_token"]):
        assert status(server, credential) == status(other, credential) == 200
    revoke(database_url, made["id"])
    assert_soon_refused([tokens["access_token"], made["key"]], server, other)
    assert refresh(server, tokens["refresh_token"]).status_code == 401
    assert post(server, "/auth/token", key=made["key"]).status_code == 401


def test_tokens_outlive_a_restart_and_so_do_revocations(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Server(database_url, tmp_path_factory.mktemp("restarted"))
    kept, ended = get_tokens(server), get_tokens(server)
    post(server, "/auth/revoke", {"refresh_token": ended["refresh_token"]})
    server.stop()
    server.start()
    assert (status(server, kept["access_token"]), status(server, ended["access_token"])) == (200, 401)
    assert refresh(server, kept["refresh_token"]).status_code == 200
    server.stop()


@pytest.mark.parametrize("path", ["/auth/token", "/auth/ws-ticket"])
def test_a_repeated_request_for_a_secret_is_a_conflict(server: Server, path: str) -> None:
    again = {"Idempotency-Key": uuid.uuid4().hex}
    assert post(server, path, key=KEY, **again).status_code == 200
    repeat = post(server, path, key=KEY, **again)
    assert (repeat.status_code, repeat.json()["code"]) == (409, "conflict")
    assert "idempotency-replayed" not in repeat.headers


def test_a_repeated_refresh_is_a_conflict_and_no_theft(server: Server) -> None:
    again = {"Idempotency-Key": uuid.uuid4().hex}
    token = get_tokens(server)["refresh_token"]
    first = refresh(server, token, **again)
    repeat = refresh(server, token, **again)
    assert (first.status_code, repeat.status_code, repeat.json()["code"]) == (200, 409, "conflict")
    other = refresh(server, first.json()["refresh_token"], **again)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    next_one = refresh(server, first.json()["refresh_token"])
    assert next_one.status_code == 200, "The family lives"
    body = {"refresh_token": next_one.json()["refresh_token"]}
    first, repeat = (post(server, "/auth/revoke", body, **again) for _ in range(2))
    assert (first.status_code, repeat.status_code, repeat.json()["code"]) == (204, 409, "conflict")
    assert ("revoked" in repeat.json()["message"], "secret" in repeat.json()["message"]) == (True, False)


def test_a_refresh_that_failed_may_be_tried_again_under_the_same_key(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database)
        stored, key = await here.key()
        principal = await here.identity.verify(key)
        used, revoked, orphan = [await here.tokens.issue(principal, ACTOR) for _ in range(3)]
        await here.tokens.refresh(used.refresh_token, ACTOR)
        await here.tokens.revoke(revoked.refresh_token, ACTOR)
        await end_key(database, stored.id)

        async def failed(token: str) -> type[Exception]:
            with pytest.raises((AuthenticationError, Conflict)) as error:
                await here.tokens.refresh(token, ACTOR, IdempotencyKey("/auth/refresh", "same", "digest"))
            return error.type

        for tokens in (revoked, orphan):
            assert [await failed(tokens.refresh_token) for _ in range(2)] == [AuthenticationError] * 2
        assert [await failed(used.refresh_token) for _ in range(2)] == [AuthenticationError, Conflict]
        with pytest.raises(AuthenticationError):
            await here.tokens.refresh(used.refresh_token, ACTOR)

    run(scenario)


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/revoke"])
def test_a_bad_body_is_named_and_its_token_is_not_repeated(server: Server, path: str) -> None:
    refused = post(server, path, {"refresh_token": "c" * 513, "hint": "x"})
    assert {error["field"] for error in refused.json()["validation_errors"]} == {"refresh_token", "hint"}
    assert "ccc" not in refused.text
    assert post(server, path, {}).status_code == 422


def test_each_use_is_in_the_audit_log(server: Server, database_url: str) -> None:
    made = make_key(server, "audited", "sessions:read")
    tokens = get_tokens(server, made["key"])
    refresh(server, tokens["refresh_token"], X_Correlation_ID="audited-refresh")
    issued, refreshed = (last_audited(database_url, action) for action in ("token.issued", "token.refreshed"))
    assert (issued.actor, refreshed.actor) == ("audited", "audited")
    assert str(issued.key_id) == str(refreshed.key_id) == made["id"]
    assert issued.target_id == refreshed.target_id
    assert refreshed.correlation_id == "audited-refresh"


def test_neither_log_nor_database_holds_a_token(server: Server, database_url: str) -> None:
    tokens = get_tokens(server)
    again = refresh(server, tokens["refresh_token"], **{"Idempotency-Key": uuid.uuid4().hex}).json()
    ticket = post(server, "/auth/ws-ticket", key=again["access_token"]).json()["ticket"]
    secrets = [*(one[name] for one in (tokens, again) for name in ("access_token", "refresh_token")), ticket]
    with server.client(again["access_token"]) as client:
        client.get("/sessions", params={"user_id": again["access_token"]})
        client.get("/sessions", params={"nothing": ticket})
    kept = server.log.read_text() + dump(database_url)
    assert not [secret for secret in secrets if secret in kept]


def dump(database_url: str) -> str:
    if database_url.startswith("sqlite"):
        path = database_url.removeprefix("sqlite:///")
        return "".join(Path(path + suffix).read_bytes().decode("latin-1") for suffix in ("", "-wal"))

    async def scenario() -> str:
        connection = await asyncpg.connect(database_url)
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [await connection.fetch(f'SELECT t::text FROM "{name[0]}" t') for name in names]
        await connection.close()
        return "".join(row[0] for table in rows for row in table)

    return asyncio.run(scenario())


_END_OF = Statement(
    sa.select(refresh_tokens.c.expires_at).where(refresh_tokens.c.digest == sa.bindparam("digest")), datetime
)


def test_tokens_do_not_outlive_their_key(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database)
        stored, key = await here.key(seconds=10)
        made = await here.tokens.issue(await here.identity.verify(key), ACTOR)
        assert 8 <= made.expires_in <= 10
        again = await here.tokens.refresh(made.refresh_token, ACTOR)
        assert again.expires_in <= 10
        digest = KeyHasher(SECRET, kind=REFRESH_TOKEN).digest(again.refresh_token)
        assert await database.reader.first(_END_OF, digest=digest) == stored.expires_at

    run(scenario)


def test_a_refresh_token_has_its_time_and_a_used_one_gives_the_next_a_new_one(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database, refresh=100)
        _, key = await here.key()
        made = await here.tokens.issue(await here.identity.verify(key), ACTOR)
        for _ in range(2):
            await passes(database, made.refresh_token, seconds=60)
            made = await here.tokens.refresh(made.refresh_token, ACTOR)
        await passes(database, made.refresh_token, seconds=101)
        with pytest.raises(AuthenticationError):
            await here.tokens.refresh(made.refresh_token, ACTOR)

    run(scenario)


async def passes(database: Database, token: str, seconds: float) -> None:
    """Lets time pass for a refresh token."""
    digest = KeyHasher(SECRET, kind=REFRESH_TOKEN).digest(token)
    end = await database.reader.first(_END_OF, digest=digest)
    assert end is not None
    async with database.unit_of_work() as rows:
        await rows.run(_ENDS, digest=digest, expires_at=end - timedelta(seconds=seconds))


_ENDS: Statement[None] = Statement(
    sa.update(refresh_tokens)
    .where(refresh_tokens.c.digest == sa.bindparam("digest", type_=refresh_tokens.c.digest.type))
    .values(expires_at=sa.bindparam("expires_at", type_=refresh_tokens.c.expires_at.type))
)


def test_tokens_outlive_a_change_of_the_secret_key(run: Run) -> None:
    async def scenario(database: Database) -> None:
        before, after = Node(database), Node(database, secrets=("a-newer-secret-key-of-32-characters", SECRET))
        _, key = await before.key()
        principal = await before.identity.verify(key)
        made, ticket = await before.tokens.issue(principal, ACTOR), await before.tokens.ticket(principal)
        assert await after.identity.verify(made.access_token)
        assert await after.identity.redeem_ticket(ticket.ticket) == principal
        renewed = await after.tokens.refresh(made.refresh_token, ACTOR)
        with pytest.raises(AuthenticationError):
            await before.identity.verify(renewed.access_token)
        await after.tokens.revoke(renewed.refresh_token, ACTOR)
        with pytest.raises(AuthenticationError):
            await after.identity.verify(made.access_token)

    run(scenario)


_NARROW: Statement[None] = Statement(
    sa.update(api_keys)
    .where(api_keys.c.id == sa.bindparam("key_id"))
    .values(scopes=sa.bindparam("scopes", type_=api_keys.c.scopes.type), tier="premium")
)


def test_a_refresh_reads_scopes_and_tier_anew(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database)
        stored, key = await here.key("sessions:read", "sessions:write")
        made = await here.tokens.issue(await here.identity.verify(key), ACTOR)
        async with database.unit_of_work() as rows:
            await rows.run(_NARROW, key_id=stored.id, scopes=to_json(["sessions:read"]))
        made = await here.tokens.refresh(made.refresh_token, ACTOR)
        principal = await here.identity.verify(made.access_token)
        assert (principal.scopes, principal.tier) == (frozenset({"sessions:read"}), Tier.PREMIUM)

    run(scenario)


def test_what_ended_is_removed_and_what_lives_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(database: Database) -> None:
        short, long = Node(database, refresh=1), Node(database)
        _, key = await long.key()
        principal = await long.identity.verify(key)
        await short.tokens.issue(principal, ACTOR)
        await long.tokens.ticket(principal)
        kept = await long.tokens.issue(principal, ACTOR)
        monkeypatch.setattr(module, "KEPT", timedelta(seconds=-60))
        assert await long.tokens.forget_expired() >= 3
        for table in (ws_tickets, refresh_tokens, token_families):
            past = sa.select(sa.func.count()).where(table.c.expires_at < sa.bindparam("past"))
            statement = Statement(past.select_from(table), int)
            assert await database.reader.first(statement, past=now() + timedelta(seconds=60)) == 0
        assert (await long.tokens.refresh(kept.refresh_token, ACTOR)).refresh_token

    run(scenario)


def test_a_claimed_idempotency_key_is_let_go_when_nothing_was_made(run: Run) -> None:
    async def scenario(database: Database) -> None:
        here = Node(database)
        stored, key = await here.key()
        principal = await here.identity.verify(key)
        await end_key(database, stored.id)

        def again() -> IdempotencyKey:
            return IdempotencyKey("/auth/token", "same", "digest")

        for _ in range(2):
            with pytest.raises(AuthenticationError):
                await here.tokens.issue(principal, ACTOR, again())
        await here.tokens.ticket(principal, again())
        with pytest.raises(Conflict):
            await here.tokens.ticket(principal, again())

    run(scenario)
