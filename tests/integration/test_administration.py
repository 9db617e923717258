"""The server as a whole, as its operator sees it: how much there is, and how it is set up."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from ai_agent.services.administration import shown
from ai_agent.settings import Settings, load_settings, variable
from ai_agent.storage import stats as stored
from tests.conftest import KEY, SECRET, Server
from tests.integration.test_database import opened
from tests.model_server import ModelServer, Reply
from tests.runs import ended, make_agent, reaches, start
from tests.sql import execute

CANARY = "canary-4711"


def stats(api: httpx.Client) -> dict[str, Any]:
    answer = api.get("/admin/stats")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_what_is_made_is_counted(api: httpx.Client, model: ModelServer) -> None:
    before = stats(api)
    session = api.post("/sessions", json={}).json()["id"]
    api.post(f"/sessions/{session}/messages/bulk-create", json=[{"content": "x"}] * 3)
    agent = make_agent(api)
    model.script(Reply("one two"), Reply(status=400))
    ended(api, start(api, agent)["id"])
    ended(api, start(api, agent)["id"])
    after = stats(api)
    grown = {name: after["counts"][name] - before["counts"][name] for name in after["counts"]}
    assert {name: grown[name] for name in ("sessions", "agents", "executions")} == {
        "sessions": 3,
        "agents": 1,
        "executions": 2,
    }
    assert grown["messages"] >= 3 + 3  # The failed run may have said nothing.
    assert after["approximate"] == []
    ends = {name: after["last_24h"][name] - before["last_24h"][name] for name in ("completed", "failed", "cancelled")}
    assert ends == {"completed": 1, "failed": 1, "cancelled": 0}
    assert after["last_24h"]["tokens"]["output"] > before["last_24h"]["tokens"]["output"]


def test_runs_that_live_are_counted_by_what_they_do(api: httpx.Client, model: ModelServer) -> None:
    model.go_on.clear()
    model.script(Reply("one two", pause_after=1))
    run = start(api, make_agent(api))
    reaches(api, run["id"], "running")
    live = stats(api)["live"]
    assert (live["running"], live["queued"], live["oldest_ready_at"]) == (1, 0, None)
    model.go_on.set()
    ended(api, run["id"])
    assert stats(api)["live"]["running"] == 0


def test_what_is_much_is_estimated(api: httpx.Client, database_url: str) -> None:
    """The test of more than ten thousand rows would take longer than it is worth."""
    session = api.post("/sessions", json={}).json()["id"]
    api.post(f"/sessions/{session}/messages/bulk-create", json=[{"content": "x"}] * 50)
    if database_url.startswith("postgresql"):
        execute(database_url, "ANALYZE messages")

    async def look() -> dict[str, stored.RowCount]:
        async with opened(database_url) as database:
            return {row.table: row for row in await stored.counts(database.reader, most=20)}

    counts = asyncio.run(look())
    assert counts["messages"].counted == 21
    assert counts["messages"].estimated >= 50


def configuration(api: httpx.Client) -> dict[str, dict[str, Any]]:
    answer = api.get("/admin/config")
    assert answer.status_code == 200, answer.text
    return {setting["name"]: setting for setting in answer.json()["settings"]}


def test_every_setting_is_shown_and_no_secret(tmp_path: Path) -> None:
    secrets = {
        "AI_AGENT_SECRET_KEY_FALLBACKS": f"{CANARY}-{'x' * 32}",
        "AI_AGENT_JWT_SECRET": f"{CANARY}-{'x' * 32}",
        "OPENAI_API_KEY": CANARY,
        "OPENAI_BASE_URL": f"https://user:{CANARY}@models.invalid/v1?key={CANARY}",
        "ANTHROPIC_API_KEY": CANARY,
        "AI_AGENT_WS_ORIGINS": "https://a.example,https://b.example",
    }
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **secrets)
    try:
        with server.client() as api:
            text = api.get("/admin/config").text
            shown = configuration(api)
    finally:
        server.stop()
    assert shown.keys() == {variable(name) for name in Settings.__struct_fields__}
    assert not re.search(f"{CANARY}|{re.escape(KEY)}|{re.escape(SECRET)}", text)
    assert shown["AI_AGENT_SECRET_KEY"] == {"name": "AI_AGENT_SECRET_KEY", "value": "***", "is_default": False}
    assert shown["OPENAI_BASE_URL"]["value"] == "https://user:***@models.invalid/v1?key=***"
    assert shown["AI_AGENT_WS_ORIGINS"]["value"] == "https://a.example,https://b.example"
    assert shown["AI_AGENT_EXECUTION_CONCURRENCY"] == {
        "name": "AI_AGENT_EXECUTION_CONCURRENCY",
        "value": "16",
        "is_default": True,
    }
    assert shown["AI_AGENT_RATE_LIMIT_ENABLED"]["value"] == "true"


@pytest.mark.parametrize("password", [CANARY, f"{CANARY}:and:more", f"a@b/{CANARY}", f"{CANARY}@", f"%40{CANARY}"])
def test_a_password_of_the_database_is_not_shown(password: str) -> None:
    settings = load_settings({"AI_AGENT_DATABASE_URL": f"postgresql://api:{password}@db:5432/x?sslmode=require"})
    values = {setting.name: setting.value for setting in shown(settings)}
    assert values["AI_AGENT_DATABASE_URL"] == "postgresql://api:***@db:5432/x?sslmode=***"
