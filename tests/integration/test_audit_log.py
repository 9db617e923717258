"""The audit log: what was done to keys, by whom and from where; added to, and never changed."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ai_agent.domain.api_keys import CreateApiKey
from ai_agent.domain.identity import OPERATOR, Scope
from ai_agent.security.api_keys import KeyHasher
from ai_agent.services.api_keys import ApiKeyService, stored_key
from ai_agent.storage import migrations
from tests.conftest import KEY, SECRET, Server, create_database
from tests.integration.test_admin_keys import READ, TEST, create, service
from tests.integration.test_database import opened
from tests.sql import execute


def entries(api: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    answer = api.get("/admin/audit-log", params=params)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def test_what_is_done_to_a_key_is_told_with_who_did_it_and_from_where(api: httpx.Client) -> None:
    marked = {"X-Correlation-ID": f"find-{uuid.uuid4().hex}"}
    made = api.post("/admin/keys", json=READ | {"owner_id": "shop"}, headers=marked).json()
    new = api.post(f"/admin/keys/{made['id']}/rotate", json={"overlap_seconds": 60}, headers=marked).json()
    api.delete(f"/admin/keys/{made['id']}", headers=marked)
    revoked, rotated, created = entries(api, target_id=made["id"])
    assert [one["action"] for one in (created, rotated, revoked)] == ["key.created", "key.rotated", "key.revoked"]
    keys = {key["id"]: key["name"] for key in api.get("/admin/keys", params={"limit": 100}).json()["items"]}
    for entry in (created, rotated, revoked):
        assert (entry["actor"], keys[entry["key_id"]], entry["address"]) == ("admin", "bootstrap", "127.0.0.1")
        assert (entry["correlation_id"], entry["target_type"]) == (marked["X-Correlation-ID"], "api_key")
    granted = {"name": "reader", "owner_id": "shop", "scopes": ["sessions:read"], "tier": "authenticated"}
    assert created["details"] == granted | {"expires_at": None}
    assert rotated["details"] == {"rotated_to": new["id"], "overlap_seconds": 60}
    assert revoked["details"] == {"name": "reader", "owner_id": "shop"}


def test_what_the_commands_and_a_start_do_is_told(server: Server, api: httpx.Client) -> None:
    made = json.loads(server.command("keys", "create", "--json", check=True).stdout)["id"]
    server.command("keys", "rotate", made, check=True)
    server.command("keys", "revoke", made, check=True)
    told = entries(api, target_id=made)
    assert [one["action"] for one in told] == ["key.revoked", "key.rotated", "key.created"]
    for entry in told:
        assert (entry["actor"], entry["key_id"], entry["address"], entry["correlation_id"]) == (
            "@cli",
            None,
            None,
            None,
        )
    (started,) = entries(api, actor="@server")
    assert (started["action"], started["details"]["name"]) == ("key.created", "bootstrap")


def test_what_did_not_happen_is_not_told(api: httpx.Client) -> None:
    made = create(api)
    for _ in range(2):
        api.delete(f"/admin/keys/{made['id']}")
    before = api.get("/admin/audit-log", params={"include_total": True, "limit": 1}).json()["total"]
    assert api.post(f"/admin/keys/{made['id']}/rotate").status_code == 409
    assert api.post(f"/admin/keys/{uuid.uuid4()}/rotate").status_code == 404
    assert api.delete(f"/admin/keys/{uuid.uuid4()}").status_code == 404
    assert api.post("/admin/keys", json={}).status_code == 422
    assert api.get("/admin/audit-log", params={"include_total": True}).json()["total"] == before
    assert len(entries(api, target_id=made["id"])) == 2


def test_entries_are_filtered_and_the_newest_come_first(server: Server, api: httpx.Client) -> None:
    for _ in range(3):
        api.delete(f"/admin/keys/{create(api)['id']}")
    every = entries(api, limit=100)
    assert [one["created_at"] for one in every] == sorted((one["created_at"] for one in every), reverse=True)
    assert entries(api, limit=100, sort_order="asc") == every[::-1]
    revoked = [one for one in every if one["action"] == "key.revoked"]
    assert entries(api, limit=100, action="key.revoked") == revoked != every
    assert entries(api, limit=100, actor="admin") == [one for one in every if one["actor"] == "admin"]
    assert entries(api, actor="nobody") == []
    assert entries(api, created_after=every[1]["created_at"]) == every[:1]
    assert entries(api, created_before=every[-2]["created_at"]) == every[-1:]
    assert entries(api, action="key.revoked", target_id=revoked[0]["target_id"]) == revoked[:1]


def test_pages_of_the_log_miss_nothing(api: httpx.Client) -> None:
    for _ in range(3):
        create(api)
    every, seen = entries(api, limit=100), []
    params: dict[str, Any] = {"limit": 2}
    while params.get("cursor", True):
        page = api.get("/admin/audit-log", params=params).json()
        seen += page["items"]
        params["cursor"] = page["next_cursor"]
    assert seen == every


@pytest.mark.parametrize("params", [{"sort_by": "actor"}, {"action": "key.eaten"}, {"owner_id": "admin"}])
def test_what_the_log_cannot_be_asked_is_refused(api: httpx.Client, params: dict[str, str]) -> None:
    refused = api.get("/admin/audit-log", params=params)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["validation_errors"]] == list(params)


def test_no_database_changes_or_removes_an_entry(api: httpx.Client, database_url: str) -> None:
    create(api)
    before = entries(api, limit=100)
    tampering = ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log", "DELETE FROM audit_log WHERE false"]
    if database_url.startswith("sqlite"):
        tampering = [*tampering[:2], "INSERT OR REPLACE INTO audit_log SELECT * FROM audit_log"]
    else:
        tampering += ["TRUNCATE audit_log", "TRUNCATE audit_log CASCADE"]
    for sql in tampering:
        with pytest.raises(Exception, match="audit_log is append-only"):
            execute(database_url, sql)
    assert entries(api, limit=100) == before


@pytest.fixture(params=["sqlite", "postgresql"])
def own_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/own.db"
    return create_database(request.getfixturevalue("postgres_url"))


def test_migrations_go_down_and_up_again_with_keys_and_entries_in_place(own_database: str) -> None:
    def play(scenario: Callable[[ApiKeyService], Awaitable[None]]) -> None:
        async def run() -> None:
            async with opened(own_database) as database:
                await scenario(service(database))

        asyncio.run(run())

    async def store(keys: ApiKeyService) -> None:
        await keys.ensure(KEY, TEST)
        made = await keys.create(OPERATOR, TEST, CreateApiKey("rotated", [Scope.ADMIN]))
        await keys.rotate(OPERATOR, TEST, made.id, 60)

    async def known() -> bool:
        async with opened(own_database) as database:
            return await stored_key(database.reader, KeyHasher(SECRET), KEY) is not None

    asyncio.run(migrations.upgrade(own_database))
    play(store)
    for revision, left in (("0006", 3), ("0005", 0)):
        asyncio.run(migrations.downgrade(own_database, revision))
        assert len(execute(own_database, "SELECT id FROM api_keys")) == 3
        asyncio.run(migrations.upgrade(own_database))
        asyncio.run(migrations.check(own_database))
        assert asyncio.run(known())
        assert len(execute(own_database, "SELECT id FROM audit_log")) == left
    play(store)
    with pytest.raises(Exception, match="audit_log is append-only"):
        execute(own_database, "DELETE FROM audit_log")
