"""API keys over HTTP: made, listed, rotated and revoked by an admin, and never seen a second time."""

import asyncio
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from ai_agent.domain.api_keys import CreateApiKey
from ai_agent.domain.audit import Actor
from ai_agent.domain.errors import AuthorizationError
from ai_agent.domain.identity import OPERATOR, Principal, Scope
from ai_agent.security.api_keys import KeyHasher, generate
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.credential_changes import LOOK_SECONDS
from ai_agent.services.paging import Pager
from ai_agent.storage.database import Database
from ai_agent.storage.keyset import CursorCodec
from tests.conftest import SECRET, Server
from tests.integration.test_database import opened
from tests.sql import dump, execute

READ: dict[str, Any] = {"name": "reader", "scopes": ["sessions:read"]}
TEST = Actor("test")


def create(api: httpx.Client, **fields: Any) -> dict[str, Any]:
    made = api.post("/admin/keys", json=READ | fields)
    assert made.status_code == 201, made.text
    return dict(made.json())


def listed(api: httpx.Client, key_id: str) -> dict[str, Any]:
    items = api.get("/admin/keys", params={"limit": 100}).json()["items"]
    return next(dict(item) for item in items if item["id"] == key_id)


def works(server: Server, key: str) -> bool:
    with server.client(key) as client:
        status = client.get("/sessions").status_code
    assert status in {200, 401}
    return status == 200


def eventually(happens: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def soon(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_key_is_shown_once_and_may_do_what_it_was_made_for(server: Server, api: httpx.Client) -> None:
    made = create(api, name=" for the shop ", owner_id="shop", tier="premium", expires_at="2100-01-01T02:00:00+02:00")
    key = made.pop("key")
    assert listed(api, made["id"]) == made
    assert (made["name"], made["owner_id"], made["scopes"]) == ("for the shop", "shop", ["sessions:read"])
    assert (made["tier"], made["expires_at"]) == ("premium", "2100-01-01T00:00:00Z")
    assert made["revoked_at"] is made["rotated_to"] is made["last_used_at"] is None
    with server.client(key) as shop:
        assert shop.get("/sessions").json()["items"] == []
        assert shop.post("/sessions", json={}).status_code == 403


def test_only_name_and_scopes_are_needed(api: httpx.Client) -> None:
    made = create(api, scopes=["sessions:read", "agents:read", "sessions:read"])
    assert (made["owner_id"], made["tier"], made["expires_at"]) == ("admin", "authenticated", None)
    assert made["scopes"] == ["sessions:read", "agents:read"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"owner_id": ""}, "owner_id"),
        ({"owner_id": "x" * 256}, "owner_id"),
        ({"owner_id": "@cli"}, "owner_id"),
        ({"owner_id": "a\u202eb"}, "owner_id"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["sessions:read", "sessions:fly"]}, "scopes[1]"),
        ({"tier": "gold"}, "tier"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2100-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-01:00"}, "expires_at"),
        ({"key": "sk-test-mine"}, "key"),
        ({"revoked_at": None}, "revoked_at"),
    ],
)
def test_a_wrong_field_is_named(api: httpx.Client, fields: dict[str, Any], wrong: str) -> None:
    refused = api.post("/admin/keys", json=READ | fields)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["validation_errors"]] == [wrong]


def test_all_that_is_missing_is_named(api: httpx.Client) -> None:
    errors = api.post("/admin/keys", json={}).json()["validation_errors"]
    assert [error["field"] for error in errors] == ["name", "scopes"]


def test_a_key_in_a_wrong_place_is_not_echoed(api: httpx.Client) -> None:
    key = generate("test")
    for fields in ({"scopes": [key]}, {"tier": key}, {"expires_at": key}, {"key": key}, {"owner_id": key + "\n"}):
        refused = api.post("/admin/keys", json=READ | fields)
        assert refused.status_code == 422
        assert key not in refused.text


def test_while_a_rotated_key_overlaps_both_are_good_and_then_only_the_new_one(
    server: Server, api: httpx.Client
) -> None:
    old = create(api, owner_id="shop", tier="premium", expires_at=soon(days=1))
    rotated = api.post(f"/admin/keys/{old['id']}/rotate", json={"overlap_seconds": 2})
    assert rotated.status_code == 201
    new = rotated.json()
    same = ("name", "owner_id", "scopes", "tier", "expires_at")
    assert {name: new[name] for name in same} == {name: old[name] for name in same}
    assert works(server, old["key"])
    assert works(server, new["key"])
    assert listed(api, old["id"])["rotated_to"] == new["id"] != old["id"]
    eventually(lambda: not works(server, old["key"]), 3.5)
    assert moment(listed(api, old["id"])["expires_at"]) < datetime.now(UTC)
    assert works(server, new["key"])


@pytest.mark.parametrize("body", [{}, {"json": {}}], ids=["no body", "empty object"])
def test_a_rotated_key_is_good_for_an_hour_unless_asked_otherwise(api: httpx.Client, body: dict[str, Any]) -> None:
    old = create(api)
    new = api.post(f"/admin/keys/{old['id']}/rotate", **body).json()
    left = moment(listed(api, old["id"])["expires_at"]) - moment(new["created_at"])
    assert abs(left.total_seconds() - 3600) < 1
    assert new["expires_at"] is None


def test_a_rotation_without_overlap_revokes_at_once(server: Server, api: httpx.Client) -> None:
    old = create(api)
    assert works(server, old["key"])
    new = api.post(f"/admin/keys/{old['id']}/rotate", json={"overlap_seconds": 0}).json()
    eventually(lambda: not works(server, old["key"]), 1.2)
    assert works(server, new["key"])
    assert listed(api, old["id"])["revoked_at"] is not None


def test_no_rotation_makes_a_key_live_longer(api: httpx.Client) -> None:
    old = create(api, expires_at=soon(minutes=10))
    new = api.post(f"/admin/keys/{old['id']}/rotate", json={"overlap_seconds": 604800}).json()
    assert listed(api, old["id"])["expires_at"] == new["expires_at"] == old["expires_at"]


@pytest.mark.parametrize("seconds", [-1, 604801, 1.5, None])
def test_an_overlap_is_at_most_a_week(api: httpx.Client, seconds: object) -> None:
    refused = api.post(f"/admin/keys/{create(api)['id']}/rotate", json={"overlap_seconds": seconds})
    assert refused.status_code == 422
    assert refused.json()["validation_errors"][0]["field"] == "overlap_seconds"


def test_a_key_is_rotated_once_and_its_successor_is_named(api: httpx.Client) -> None:
    old = create(api)
    new = api.post(f"/admin/keys/{old['id']}/rotate").json()
    again = api.post(f"/admin/keys/{old['id']}/rotate")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert again.json()["details"] == {"rotated_to": new["id"]}
    assert api.post(f"/admin/keys/{new['id']}/rotate").status_code == 201


def test_a_revoked_key_is_refused_within_a_second_and_cannot_be_rotated(server: Server, api: httpx.Client) -> None:
    made = create(api)
    assert works(server, made["key"])
    assert api.delete(f"/admin/keys/{made['id']}").status_code == 204
    eventually(lambda: not works(server, made["key"]), 1.2)
    revoked_at = listed(api, made["id"])["revoked_at"]
    assert api.delete(f"/admin/keys/{made['id']}").status_code == 204
    assert listed(api, made["id"])["revoked_at"] == revoked_at
    assert api.post(f"/admin/keys/{made['id']}/rotate").status_code == 409


def test_an_expired_key_is_refused_and_cannot_be_rotated(server: Server, api: httpx.Client) -> None:
    made = create(api, expires_at=soon(seconds=1))
    assert works(server, made["key"])
    eventually(lambda: not works(server, made["key"]), 2.2)
    assert api.post(f"/admin/keys/{made['id']}/rotate").status_code == 409


def test_a_key_that_is_not_there_is_not_found(api: httpx.Client) -> None:
    for key_id in (uuid.uuid4(), "nonsense"):
        assert api.delete(f"/admin/keys/{key_id}").status_code == 404
        assert api.post(f"/admin/keys/{key_id}/rotate").status_code == 404


def test_keys_of_all_owners_are_listed_filtered_and_in_order(api: httpx.Client) -> None:
    owner, other = uuid.uuid4().hex, uuid.uuid4().hex
    made = [create(api, name=name, owner_id=owner) for name in ("b", "a", "c")]
    create(api, owner_id=other)

    def names(**params: Any) -> list[str]:
        page = api.get("/admin/keys", params={"owner_id": owner} | params).json()
        return [item["name"] for item in page["items"]]

    assert names() == ["c", "a", "b"]
    assert names(sort_by="name", sort_order="asc") == ["a", "b", "c"]
    assert names(created_after=made[1]["created_at"]) == ["c"]
    assert names(created_before=made[1]["created_at"]) == ["b"]
    first = api.get("/admin/keys", params={"owner_id": owner, "limit": 2, "include_total": True})
    assert (first.json()["has_more"], first.json()["total"]) == (True, 3)
    assert names(limit=2, cursor=first.json()["next_cursor"]) == ["b"]
    assert api.get(first.links["next"]["url"].removeprefix("/api/v1")).json()["items"][0]["name"] == "b"
    cursor = {"owner_id": other, "cursor": first.json()["next_cursor"]}
    assert api.get("/admin/keys", params=cursor).status_code == 422
    owners = {item["owner_id"] for item in api.get("/admin/keys").json()["items"]}
    assert {owner, other} <= owners


def test_the_last_use_is_noted_once_a_minute(server: Server, api: httpx.Client, database_url: str) -> None:
    made = create(api)

    def used() -> Any:
        return listed(api, made["id"])["last_used_at"]

    assert used() is None
    assert works(server, made["key"])
    eventually(lambda: used() is not None, 2)
    first = used()
    assert moment(first) - moment(made["created_at"]) < timedelta(seconds=5)
    looked_up_anew(database_url, made["id"])
    time.sleep(LOOK_SECONDS + 0.1)
    assert works(server, made["key"])
    time.sleep(0.1)
    assert used() == first
    ago = f"UPDATE api_keys SET last_used_at = '2026-01-01T00:00:00.000000Z' WHERE id = '{made['id']}'"
    execute(database_url, ago)
    looked_up_anew(database_url, made["id"])

    def noted_again() -> bool:
        return works(server, made["key"]) and moment(used()) >= moment(first)

    eventually(noted_again, 3)


def looked_up_anew(database_url: str, key_id: str) -> None:
    """Lets the server forget, a moment later, what it remembers of a key."""
    later = datetime.now(UTC) + timedelta(days=1)
    execute(database_url, f"UPDATE api_keys SET expires_at = '{later:%Y-%m-%dT%H:%M:%S.%fZ}' WHERE id = '{key_id}'")


@pytest.mark.parametrize("path", ["/admin/keys", "/admin/keys/{id}/rotate"])
def test_a_repeat_is_a_conflict_because_no_answer_is_stored(api: httpx.Client, path: str) -> None:
    owner = uuid.uuid4().hex
    body = READ | {"owner_id": owner} if path == "/admin/keys" else {"overlap_seconds": 5}
    address = path.format(id=create(api, owner_id=owner)["id"])
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (api.post(address, json=body, headers=key) for _ in range(2))
    assert first.status_code == 201
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert "secret" in again.json()["message"]
    assert "idempotency-replayed" not in again.headers
    assert first.json()["key"] not in again.text
    assert len(api.get("/admin/keys", params={"owner_id": owner}).json()["items"]) == 2
    other = api.post(address, json=body | {"unknown": 1}, headers=key)
    assert other.status_code == 422


def test_what_failed_may_be_tried_again_under_the_same_key(api: httpx.Client) -> None:
    key, absent = {"Idempotency-Key": uuid.uuid4().hex}, uuid.uuid4()
    for _ in range(2):
        assert api.post(f"/admin/keys/{absent}/rotate", headers=key).status_code == 404


def test_every_node_is_told_of_what_ends(api: httpx.Client, database_url: str) -> None:
    rotated, replaced, revoked = create(api), create(api), create(api)
    api.post(f"/admin/keys/{rotated['id']}/rotate")
    api.post(f"/admin/keys/{replaced['id']}/rotate", json={"overlap_seconds": 0})
    api.delete(f"/admin/keys/{revoked['id']}")
    changes = {
        name: bool(end) for name, end in execute(database_url, "SELECT credential, revoked FROM credential_changes")
    }
    told = [changes[f"key:{one['id']}"] for one in (rotated, replaced, revoked)]
    assert told == [False, True, True]


def test_every_node_is_told_of_a_key_that_sql_ends(server: Server, api: httpx.Client, database_url: str) -> None:
    revoked, expired, renamed = create(api), create(api), create(api)
    assert all(works(server, one["key"]) for one in (revoked, expired, renamed))
    past = "'2026-01-01T00:00:00.000000Z'"
    execute(database_url, f"UPDATE api_keys SET revoked_at = {past} WHERE id = '{revoked['id']}'")
    execute(database_url, f"UPDATE api_keys SET expires_at = {past} WHERE id = '{expired['id']}'")
    execute(database_url, f"UPDATE api_keys SET name = 'x', revoked_at = NULL WHERE id = '{renamed['id']}'")
    eventually(lambda: not works(server, revoked["key"]) and not works(server, expired["key"]), 1.2)
    told = [name for (name,) in execute(database_url, "SELECT credential FROM credential_changes")]
    assert [f"key:{one['id']}" in told for one in (revoked, expired, renamed)] == [True, True, False]


def test_a_key_is_nowhere_but_in_the_answer_that_made_it(server: Server, api: httpx.Client, database_url: str) -> None:
    made = create(api)
    new = api.post(f"/admin/keys/{made['id']}/rotate", headers={"Idempotency-Key": uuid.uuid4().hex}).json()
    assert works(server, made["key"])
    assert works(server, new["key"])
    api.delete(f"/admin/keys/{new['id']}")
    seen = [api.get(path, params={"limit": 100}).text for path in ("/admin/keys", "/admin/audit-log")]
    everywhere = {"log": server.log.read_text(), "database": dump(database_url), "lists": "".join(seen)}
    for place, text in everywhere.items():
        assert made["id"] in text or place == "log"
        for key in (made["key"], new["key"]):
            assert key.rpartition("-")[2] not in text, place


def service(database: Database) -> ApiKeyService:
    return ApiKeyService(database, KeyHasher(SECRET), "test", Pager(database, CursorCodec(SECRET)))


def played(server: Server, scenario: Callable[[ApiKeyService], Any]) -> None:
    """Plays a scenario on the server's own database."""

    async def play() -> None:
        async with opened(server.environment["AI_AGENT_DATABASE_URL"]) as database:
            await scenario(service(database))

    asyncio.run(play())


def test_nobody_gives_scopes_that_he_does_not_have(server: Server) -> None:
    clerk = Principal("clerk", frozenset({Scope.SESSIONS_READ, Scope.AGENTS_READ}))

    async def scenario(keys: ApiKeyService) -> None:
        made = await keys.create(clerk, TEST, CreateApiKey("mine", [Scope.AGENTS_READ]))
        assert made.owner_id == "clerk"
        wanted = CreateApiKey("more", [Scope.SESSIONS_READ, Scope.AGENTS_WRITE, Scope.ADMIN])
        with pytest.raises(AuthorizationError) as refused:
            await keys.create(clerk, TEST, wanted)
        assert refused.value.details == {"scopes": ["admin", "agents:write"]}
        assert "admin, agents:write" in refused.value.message
        strong = await keys.create(OPERATOR, TEST, CreateApiKey("strong", [Scope.ADMIN]))
        with pytest.raises(AuthorizationError):
            await keys.rotate(clerk, TEST, strong.id, 0)
        assert (await keys.rotate(clerk, TEST, made.id, 0)).owner_id == "clerk"

    played(server, scenario)


def test_of_rotations_at_once_one_wins(server: Server) -> None:
    async def scenario(keys: ApiKeyService) -> None:
        made = await keys.create(OPERATOR, TEST, CreateApiKey("raced", [Scope.ADMIN]))
        rotations = (keys.rotate(OPERATOR, TEST, made.id, 60) for _ in range(4))
        ended = await asyncio.gather(*rotations, return_exceptions=True)
        assert sorted(type(one).__name__ for one in ended) == ["Conflict"] * 3 + ["NewApiKey"]

    played(server, scenario)
