"""Registered tools through the server, on both databases."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from ai_agent.domain.tools import BUILTINS, ToolKind, ToolSpec
from ai_agent.storage import tools
from ai_agent.storage.engine import create_database
from tests.conftest import Server

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def body(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "client", "schema": SCHEMA, **more}


def make(api: httpx.Client, name: str, **more: Any) -> dict[str, Any]:
    response = api.post("/tools", json=body(name, **more))
    assert response.status_code == 201, response.text
    return dict(response.json())


def errors(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 422, response.text
    return {error["field"]: error["message"] for error in response.json()["validation_errors"]}


@pytest.fixture
def clean(api: httpx.Client) -> httpx.Client:
    """The API, with no tool registered."""
    for tool in api.get("/tools", params={"limit": 100}).json()["items"]:
        assert api.delete(f"/tools/{tool['id']}").status_code == 204
    return api


# What is registered


def test_a_client_tool_comes_back_as_it_was_written(api: httpx.Client) -> None:
    schema = {"$schema": DRAFT, "$id": "https://example.com/tool", **SCHEMA, "additionalProperties": False}
    written = body(
        "weather", schema=schema, description="Tells it", enabled=False, requires_approval=True, metadata={"a": [1]}
    )
    tool = make(api, **written)
    assert {name: tool[name] for name in written} == written
    assert (tool["config"], tool["mcp_server_id"]) == ({}, None)
    assert api.get(f"/tools/{tool['id']}").json() == tool


def test_a_tool_is_enabled_and_asks_nobody_unless_it_is_told_to(api: httpx.Client) -> None:
    tool = make(api, "plain")
    assert (tool["enabled"], tool["requires_approval"], tool["description"], tool["metadata"]) == (
        True,
        False,
        None,
        {},
    )


@pytest.mark.parametrize("name", BUILTINS)
def test_a_builtin_tool_shows_its_own_schema(clean: httpx.Client, name: str) -> None:
    tool = clean.post("/tools", json={"name": name, "kind": "builtin", "requires_approval": True}).json()
    assert (tool["schema"], tool["requires_approval"]) == (BUILTINS[name].schema, True)
    patched = clean.patch(f"/tools/{tool['id']}", json={"enabled": False, "description": "Off"}).json()
    assert (patched["enabled"], patched["description"], patched["schema"]) == (False, "Off", BUILTINS[name].schema)


def test_a_builtin_tool_is_one_there_is_and_brings_its_schema(api: httpx.Client) -> None:
    unknown = errors(api.post("/tools", json={"name": "weather", "kind": "builtin"}))
    assert unknown == {"name": "A builtin tool is one of current_time, calculator, search_messages"}
    given = {"name": "calculator", "kind": "builtin", "schema": SCHEMA}
    assert list(errors(api.post("/tools", json=given))) == ["schema"]


def test_kinds_that_there_are_not_are_refused_with_those_that_there_are(api: httpx.Client) -> None:
    refused = errors(api.post("/tools", json=body("other", kind="nonsense")))
    assert refused == {"kind": "Must be one of builtin, http, mcp, client"}
    refused = errors(api.post("/tools", json=body("other", kind="mcp")))
    assert refused == {"kind": "Tools of kind mcp are made by a sync of their server"}


@pytest.mark.parametrize("name", ["", " ", "two words", "dots.in.it", "grün", "x" * 65, "a\nb", None])
def test_a_name_that_models_do_not_accept_is_refused(api: httpx.Client, name: str | None) -> None:
    assert list(errors(api.post("/tools", json=body("x") | {"name": name}))) == ["name"]


def test_white_space_around_a_name_is_taken_away(clean: httpx.Client) -> None:
    assert make(clean, "  padded\n")["name"] == "padded"
    assert make(clean, "x" * 64)["name"] == "x" * 64


def test_every_bad_field_is_named_at_once(api: httpx.Client) -> None:
    wrong: dict[str, Any] = {
        "name": "x y",
        "kind": "client",
        "enabled": "yes",
        "metadata": [],
        "owner_id": "me",
        "mcp_server_id": None,
    }
    refused = errors(api.post("/tools", json=wrong))
    assert set(refused) == {"name", "enabled", "metadata", "owner_id", "mcp_server_id"}


def test_a_client_tool_needs_a_schema_and_has_no_settings(api: httpx.Client) -> None:
    assert list(errors(api.post("/tools", json=body("x", schema=None)))) == ["schema"]
    assert list(errors(api.post("/tools", json=body("x", config={"url": "https://example.com"})))) == ["config.url"]


# Schemas


def deep(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        inner = {"not": inner}
    return {"type": "object", **inner}


def doubling(times: int) -> dict[str, Any]:
    """Each definition refers twice to the next one."""
    names = [f"#/$defs/d~1{number}" for number in range(times)]
    halves = {f"d/{number}": {"allOf": [{"$ref": name}] * 2} for number, name in enumerate(names[1:])}
    return {"type": "object", "$ref": names[0], "$defs": {**halves, f"d/{times - 1}": {"minProperties": 1}}}


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({}, "schema.type"),
        ({"type": "string"}, "schema.type"),
        ({"type": ["object", "null"]}, "schema.type"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "schema.properties.a.type"),
        ({"type": "object", "required": "city"}, "schema.required"),
        ({"type": "object", "allOf": [{}, {"minProperties": -1}]}, "schema.allOf[1].minProperties"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "schema.properties.a.pattern"),
        ({"type": "object", "$ref": "https://example.com/schema"}, "schema.$ref"),
        ({"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}, "schema.properties.a.$ref"),
        ({"type": "object", "properties": {"a": {"$dynamicRef": "other.json#a"}}}, "schema.properties.a.$dynamicRef"),
        ({"type": "object", "$ref": "#/$defs/missing"}, "schema"),
        ({"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}, "schema.$schema"),
        ({"type": "object", "not": {"$id": "https://example.com/inner"}}, "schema.not.$id"),
        (deep(33), "schema"),
        ({"type": "object", "description": "x" * 64 * 1024}, "schema"),
        (doubling(24), "schema"),
    ],
)
def test_a_schema_that_nobody_could_use_is_refused_with_its_path(
    api: httpx.Client, schema: dict[str, Any], field: str
) -> None:
    assert list(errors(api.post("/tools", json=body("bad", schema=schema)))) == [field]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "$defs": {"a~b/c": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a~0b~1c"}}},
        {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}},
        {"type": "object", "properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
        deep(32),
        doubling(8),
    ],
)
def test_a_schema_may_use_all_of_the_draft(clean: httpx.Client, schema: dict[str, Any]) -> None:
    assert make(clean, "good", schema=schema)["schema"] == schema


# Changes


def test_a_replacement_sets_what_it_does_not_name_to_its_default(clean: httpx.Client) -> None:
    tool = make(clean, "old", description="d", enabled=False, requires_approval=True, metadata={"a": 1})
    response = clean.put(f"/tools/{tool['id']}", json=body("new"))
    assert response.status_code == 200
    replaced = response.json()
    expected: dict[str, Any] = {
        "name": "new",
        "description": None,
        "enabled": True,
        "requires_approval": False,
        "metadata": {},
    }
    assert replaced == {**tool, **expected, "updated_at": replaced["updated_at"]}
    assert replaced["updated_at"] > tool["updated_at"]
    assert clean.get(f"/tools/{tool['id']}").json() == replaced


def test_a_patch_changes_only_what_it_names(clean: httpx.Client) -> None:
    tool = make(clean, "patched", description="d", requires_approval=True, metadata={"a": 1, "b": 2})
    patch = {"description": None, "metadata": {"a": None, "c": 3}, "schema": {"required": None}}
    patched = clean.patch(f"/tools/{tool['id']}", json=patch).json()
    expected = {
        "description": None,
        "metadata": {"b": 2, "c": 3},
        "schema": {k: SCHEMA[k] for k in ("type", "properties")},
    }
    assert patched == {**tool, **expected, "updated_at": patched["updated_at"]}


def test_a_patch_whose_result_would_be_refused_changes_nothing(clean: httpx.Client) -> None:
    tool = make(clean, "kept")
    address = f"/tools/{tool['id']}"
    assert list(errors(clean.patch(address, json={"schema": None}))) == ["schema"]
    assert list(errors(clean.patch(address, json={"schema": {"properties": {"city": 5}}}))) == [
        "schema.properties.city"
    ]
    assert list(errors(clean.patch(address, json={"kind": "builtin"}))) == ["name"]
    assert list(errors(clean.patch(address, json={"name": None, "enabled": None}))) == ["name", "enabled"]
    assert clean.get(address).json() == tool


def test_a_tool_may_become_one_of_the_servers_own_and_back(clean: httpx.Client) -> None:
    address = f"/tools/{make(clean, 'calculator')['id']}"
    builtin = clean.patch(address, json={"kind": "builtin", "schema": None}).json()
    assert (builtin["kind"], builtin["schema"]) == ("builtin", BUILTINS["calculator"].schema)
    assert list(errors(clean.patch(address, json={"kind": "client"}))) == ["schema"]
    assert clean.patch(address, json={"kind": "client", "schema": SCHEMA}).json()["schema"] == SCHEMA


def test_a_name_is_there_once_for_each_owner(clean: httpx.Client, server: Server) -> None:
    make(clean, "taken")
    other = make(clean, "free")
    for refused in (
        clean.post("/tools", json=body("taken")),
        clean.put(f"/tools/{other['id']}", json=body("taken")),
        clean.patch(f"/tools/{other['id']}", json={"name": "taken"}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert refused.json()["details"] == {"field": "name"}
    key = clean.post("/admin/keys", json={"name": "k", "owner_id": "other", "scopes": ["tools:write"]}).json()["key"]
    with server.client(key) as neighbour:
        assert neighbour.post("/tools", json=body("taken")).status_code == 201


def test_a_change_of_an_old_version_is_refused(clean: httpx.Client) -> None:
    tool = make(clean, "versions")
    address = f"/tools/{tool['id']}"
    tag = clean.get(address).headers["etag"]
    assert clean.get(address, headers={"If-None-Match": tag}).status_code == 304
    changed = clean.patch(address, json={"enabled": False}, headers={"If-Match": tag})
    assert changed.status_code == 200
    stale = {"If-Match": tag}
    assert clean.patch(address, json={"enabled": True}, headers=stale).status_code == 412
    assert clean.put(address, json=body("versions"), headers=stale).status_code == 412
    assert clean.delete(address, headers=stale).status_code == 412
    assert clean.get(address).json() == changed.json()
    assert clean.delete(address, headers={"If-Match": changed.headers["etag"]}).status_code == 204
    assert clean.get(address).status_code == 404


def test_a_repeated_registration_registers_once(clean: httpx.Client) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = clean.post("/tools", json=body("once"), headers=key)
    again = clean.post("/tools", json=body("once"), headers=key)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert clean.get("/tools", params={"include_total": True}).json()["total"] == 1


# Lists


def names(api: httpx.Client, **params: Any) -> list[str]:
    response = api.get("/tools", params=params)
    assert response.status_code == 200, response.text
    return [tool["name"] for tool in response.json()["items"]]


def test_lists_are_filtered_sorted_and_paged(clean: httpx.Client) -> None:
    make(clean, "bravo", description="Sends A LETTER")
    make(clean, "alpha", enabled=False)
    assert clean.post("/tools", json={"name": "calculator", "kind": "builtin"}).status_code == 201
    assert names(clean) == ["calculator", "alpha", "bravo"]
    assert names(clean, sort_by="name", sort_order="asc") == ["alpha", "bravo", "calculator"]
    assert names(clean, enabled="true", sort_by="name", sort_order="asc") == ["bravo", "calculator"]
    assert names(clean, enabled="false") == ["alpha"]
    assert names(clean, kind="builtin") == ["calculator"]
    assert names(clean, search="a letter") == ["bravo"]
    assert names(clean, search="ALPHA", enabled="true") == []
    page = clean.get("/tools", params={"limit": 2, "sort_by": "name", "sort_order": "asc", "include_total": True})
    assert (page.json()["total"], page.json()["has_more"]) == (3, True)
    rest = names(clean, limit=2, sort_by="name", sort_order="asc", cursor=page.json()["next_cursor"])
    assert rest == ["calculator"]


def test_lists_refuse_what_they_do_not_know(api: httpx.Client) -> None:
    for query in ("kind=nonsense", "enabled=perhaps", "sort_by=kind", "mcp_server_id=x"):
        assert list(errors(api.get(f"/tools?{query}"))) == [query.partition("=")[0]]


# What a run is told


def test_a_run_finds_its_owners_tools_by_name(clean: httpx.Client, database_url: str) -> None:
    make(clean, "mine", description="d", requires_approval=True)
    make(clean, "off", enabled=False)
    make(clean, "unused")
    off, mine = sorted(asyncio.run(named(database_url, "admin")), key=lambda spec: spec.enabled)
    assert (mine.name, mine.description, mine.kind, mine.requires_approval) == ("mine", "d", ToolKind.CLIENT, True)
    assert (mine.schema, mine.idempotent) == (SCHEMA, False)
    assert (off.name, off.enabled) == ("off", False)
    assert asyncio.run(named(database_url, "somebody")) == []


@pytest.mark.parametrize(
    ("given", "seconds"), [({}, 30), ({"timeout_seconds": None}, 30), ({"timeout_seconds": 2.5}, 2.5)]
)
@pytest.mark.parametrize(("method", "idempotent"), [("GET", True), ("POST", False)])
def test_a_run_is_told_of_an_http_tools_time_and_whether_it_may_call_twice(
    clean: httpx.Client, database_url: str, given: dict[str, Any], seconds: float, method: str, idempotent: bool
) -> None:
    config = {"method": method, "url": "https://example.com/{city}", **given}
    made = make(clean, "mine", kind="http", config=config)
    (spec,) = asyncio.run(named(database_url, "admin"))
    assert (spec.timeout_seconds, spec.idempotent, str(spec.id)) == (seconds, idempotent, made["id"])
    assert spec.config == config


async def named(database_url: str, owner: str) -> list[ToolSpec]:
    database = create_database(database_url, pool_size=1, statement_timeout=5)
    await database.open()
    try:
        return await tools.named(database.reader, owner, ["off", "mine", "nothing"])
    finally:
        await database.close()
