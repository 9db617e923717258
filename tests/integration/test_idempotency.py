"""`Idempotency-Key`: a repeated POST happens once, on both databases."""

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from ai_agent.domain.errors import IdempotencyInProgress
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.sessions import CreateSession
from ai_agent.services.idempotency import IdempotencyService, KeptAnswer
from ai_agent.services.sessions import new_session
from ai_agent.storage import idempotency, sessions
from ai_agent.storage.database import Database
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import idempotency_keys
from tests.conftest import Server
from tests.integration.test_database import opened
from tests.integration.test_identity import Caller
from tests.model_server import ModelServer, Reply

MODEL = {"provider": "openai", "model": "m"}


def new_key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def total(api: httpx.Client, user: str) -> int:
    return int(api.get("/sessions", params={"user_id": user, "include_total": True}).json()["total"])


def test_a_repeat_gets_the_first_answer_and_happens_once(api: httpx.Client) -> None:
    key, body = new_key(), {"user_id": uuid.uuid4().hex}
    first, again = (api.post("/sessions", json=body, headers=key) for _ in range(2))
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content, again.headers["etag"]) == (201, first.content, first.headers["etag"])
    assert again.headers["content-type"] == "application/json"
    assert again.headers["x-correlation-id"] != first.headers["x-correlation-id"]
    assert total(api, body["user_id"]) == 1


def test_the_stored_answer_is_that_of_the_time(api: httpx.Client) -> None:
    key = new_key()
    first = api.post("/sessions", json={"title": "then"}, headers=key).json()
    api.delete(f"/sessions/{first['id']}")
    assert api.post("/sessions", json={"title": "then"}, headers=key).json() == first


def test_another_body_under_the_same_key_is_refused(api: httpx.Client) -> None:
    key = new_key()
    api.post("/sessions", json={"title": "a"}, headers=key)
    refused = api.post("/sessions", json={"title": "b"}, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_counts_for_its_path_and_its_owner_only(server: Server, api: httpx.Client) -> None:
    key = new_key()
    session = api.post("/sessions", json={}, headers=key).json()["id"]
    message = api.post(f"/sessions/{session}/messages", json={"content": "x"}, headers=key)
    assert (message.status_code, "idempotency-replayed" in message.headers) == (201, False)
    with Caller(server, "keyed", "sessions:write") as other:
        made = other.http.post("/sessions", json={}, headers=key)
        assert (made.status_code, "idempotency-replayed" in made.headers) == (201, False)
        assert made.json()["id"] != session


def test_an_error_leaves_nothing_and_the_key_may_try_again(api: httpx.Client) -> None:
    key, name = new_key(), uuid.uuid4().hex
    taken = api.post("/agents", json={"name": name}).json()["id"]
    assert api.post("/agents", json={"name": name}, headers=key).status_code == 409
    assert api.post("/agents", json={"name": ""}, headers=key).status_code == 422
    api.delete(f"/agents/{taken}")
    made = api.post("/agents", json={"name": name}, headers=key)
    assert (made.status_code, "idempotency-replayed" in made.headers) == (201, False)


def test_many_repeats_at_once_happen_once(api: httpx.Client) -> None:
    session = api.post("/sessions", json={}).json()["id"]
    key, path = new_key(), f"/sessions/{session}/messages"
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: api.post(path, json={"content": "once"}, headers=key), range(12)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert sum("idempotency-replayed" not in a.headers for a in answers if a.status_code == 201) == 1
    assert api.get(f"/sessions/{session}").json()["message_count"] == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ü".encode()], ids=["empty", "blank", "long", "no ASCII"])
def test_a_malformed_key_is_refused(api: httpx.Client, key: Any) -> None:
    refused = api.post("/sessions", json={}, headers={"Idempotency-Key": key})
    assert (refused.status_code, refused.json()["code"]) == (400, "malformed_request")


def test_the_longest_key_and_every_visible_character_are_taken(api: httpx.Client) -> None:
    for key in ("x" * 255, "".join(map(chr, range(0x21, 0x7F)))):
        assert api.post("/sessions", json={}, headers={"Idempotency-Key": key}).status_code == 201


def test_methods_that_are_idempotent_by_themselves_ignore_the_key(api: httpx.Client) -> None:
    key = new_key()
    session = api.post("/sessions", json={}).json()["id"]
    for title in ("a", "b"):
        assert api.patch(f"/sessions/{session}", json={"title": title}, headers=key).json()["title"] == title


def on(url: str, work: Callable[[Database], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with opened(url) as database:
            return await work(database)

    return asyncio.run(run())


_AGE: Statement[None] = Statement(
    sa.update(idempotency_keys)
    .where(idempotency_keys.c.key == sa.bindparam("key_text"))
    .values(created_at=sa.bindparam("at"))
)


def age(url: str, key: dict[str, str]) -> None:
    """Makes a stored key old."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    on(url, lambda database: database.write(_AGE, key_text=key["Idempotency-Key"], at=old))


def test_a_key_is_free_again_after_a_day(api: httpx.Client, database_url: str) -> None:
    key, body = new_key(), {"user_id": uuid.uuid4().hex}
    first = api.post("/sessions", json=body, headers=key).json()
    age(database_url, key)
    again = api.post("/sessions", json=body, headers=key)
    assert (again.status_code, "idempotency-replayed" in again.headers) == (201, False)
    assert again.json()["id"] != first["id"]
    assert api.post("/sessions", json=body, headers=key).json()["id"] == again.json()["id"]


def test_expired_keys_are_forgotten(api: httpx.Client, database_url: str) -> None:
    key = new_key()
    api.post("/sessions", json={}, headers=key)
    age(database_url, key)

    async def forget(database: Database) -> tuple[int, int]:
        service = IdempotencyService(database)
        return await service.forget_expired(), await service.forget_expired()

    assert on(database_url, forget) == (1, 0)


def test_a_key_that_is_worked_on_for_long_is_told_so(api: httpx.Client, database_url: str) -> None:
    """The first request is held in its transaction; a repeat waits a second, and another key only for the database."""
    key, claimed, go_on = new_key(), threading.Event(), threading.Event()
    body = {"user_id": uuid.uuid4().hex}

    async def hold(database: Database) -> None:
        async with database.unit_of_work() as rows:
            statement: Statement[None] = Statement(
                sa.insert(idempotency_keys).values(
                    owner_id="admin",
                    path="/api/v1/sessions",
                    key=key["Idempotency-Key"],
                    body_digest="x",
                    created_at=sa.bindparam("at"),
                )
            )
            await rows.run(statement, at=datetime.now(UTC))
            claimed.set()
            await asyncio.to_thread(go_on.wait, 20)
            raise TimeoutError  # As a crash does: nothing of it stays.

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(on, database_url, hold)
        assert claimed.wait(10)
        began = time.monotonic()
        refused = api.post("/sessions", json=body, headers=key)
        waited = time.monotonic() - began
        go_on.set()
        assert isinstance(holder.exception(10), TimeoutError)
    assert 0.9 < waited < 2.5
    assert refused.headers["retry-after"] == "1"
    if database_url.startswith("postgresql"):
        assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_in_progress")
    else:  # The whole database has one writer, which is another process here.
        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
    assert api.post("/sessions", json=body, headers=key).status_code == 201
    assert total(api, body["user_id"]) == 1


def test_what_fails_behind_the_effect_undoes_it(database_url: str, server: Server) -> None:
    key = IdempotencyKey("/api/v1/sessions", uuid.uuid4().hex, "digest")
    made = new_session(CreateSession())

    async def scenario(database: Database) -> None:
        async def answer() -> KeptAnswer:
            await database.write(sessions.INSERT, **sessions.values("admin", made))
            async with database.unit_of_work() as rows:
                assert await sessions.get(rows, "admin", made.id) is not None
            raise ConnectionResetError

        service = IdempotencyService(database)
        with pytest.raises(ConnectionResetError):
            await service.once("admin", key, answer)
        assert await sessions.get(database.reader, "admin", made.id) is None
        async with database.unit_of_work() as rows:
            assert await idempotency.get(rows, "admin", key) is None

    on(database_url, scenario)


def test_a_task_that_outlives_the_request_has_transactions_of_its_own(database_url: str, server: Server) -> None:
    key = IdempotencyKey("/api/v1/sessions", uuid.uuid4().hex, "digest")
    made = new_session(CreateSession())

    async def scenario(database: Database) -> None:
        answered, tasks = asyncio.Event(), []

        async def later() -> None:
            await answered.wait()
            with pytest.raises(ConnectionResetError):
                async with database.unit_of_work() as rows:
                    await sessions.insert(rows, "admin", made)
                    raise ConnectionResetError

        async def answer() -> KeptAnswer:
            tasks.append(asyncio.create_task(later()))
            return KeptAnswer(201, {}, b"{}")

        await IdempotencyService(database).once("admin", key, answer)
        answered.set()
        await tasks[0]
        assert await sessions.get(database.reader, "admin", made.id) is None

    on(database_url, scenario)


def test_a_repeat_while_the_first_one_writes_is_told_so(database_url: str, server: Server) -> None:
    key = IdempotencyKey("/api/v1/sessions", uuid.uuid4().hex, "digest")

    async def scenario(database: Database) -> None:
        service, go_on = IdempotencyService(database), asyncio.Event()

        async def answer() -> KeptAnswer:
            await go_on.wait()
            return KeptAnswer(201, {}, b"{}")

        first = asyncio.create_task(service.once("admin", key, answer))
        await asyncio.sleep(0.1)
        with pytest.raises(IdempotencyInProgress):
            await service.once("admin", key, answer)
        go_on.set()
        await first
        assert (await service.once("admin", key, answer)).status == 201

    on(database_url, scenario)


def test_effects_wait_for_the_commit_of_the_whole(database_url: str, server: Server) -> None:
    done: list[str] = []

    async def effect(name: str) -> None:
        done.append(name)

    async def scenario(database: Database) -> None:
        async def answer(*, status: int) -> KeptAnswer:
            async with database.unit_of_work() as rows:
                rows.after_commit(partial(effect, str(status)))
            assert done == []
            return KeptAnswer(status, {}, b"{}")

        for status in (409, 201):
            key = IdempotencyKey("/api/v1/sessions", uuid.uuid4().hex, "digest")
            await IdempotencyService(database).once("admin", key, partial(answer, status=status))

    on(database_url, scenario)
    assert done == ["201"]


# Executions: a repeat attaches to the first one.


@pytest.fixture
def agent(api: httpx.Client) -> str:
    return str(api.post("/agents", json={"name": uuid.uuid4().hex, "model_config": MODEL}).json()["id"])


def test_a_repeated_run_happens_once(api: httpx.Client, model: ModelServer, agent: str) -> None:
    key, before = new_key(), len(model.requests)
    first, again = (api.post(f"/agents/{agent}/execute", json={"message": "x"}, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(model.requests) == before + 1
    refused = api.post(f"/agents/{agent}/execute", json={"message": "y"}, headers=key)
    assert refused.json()["code"] == "idempotency_key_reused"


def test_a_repeat_of_a_live_run_is_told_which_one_it_is(api: httpx.Client, model: ModelServer, agent: str) -> None:
    model.go_on.clear()
    model.script(Reply("one two three", pause_after=1))
    key, path, body = new_key(), f"/agents/{agent}/execute", {"message": "x"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(api.post, path, json=body, headers=key)
        while api.get(f"/agents/{agent}").json()["status"] != "processing":
            time.sleep(0.02)
        refused = api.post(path, json=body, headers=key)
        model.go_on.set()
        answer = first.result(20).json()
    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_in_progress")
    assert refused.json()["details"] == {"execution_id": answer["execution_id"]}
    assert (refused.headers["retry-after"], "idempotency-replayed" in refused.headers) == ("1", False)
    assert api.post(path, json=body, headers=key).json() == answer


def test_a_repeated_failure_is_told_again(api: httpx.Client, model: ModelServer, agent: str) -> None:
    model.script(Reply(status=400))
    key, path = new_key(), f"/agents/{agent}/execute"
    first, again = (api.post(path, json={"message": "x"}, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (502, 502)
    assert again.json()["details"] == first.json()["details"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


def test_a_repeated_stream_is_the_first_ones_stream(api: httpx.Client, model: ModelServer, agent: str) -> None:
    key, path = new_key(), f"/agents/{agent}/execute/stream"
    first, again = (api.post(path, json={"message": "one two three"}, headers=key) for _ in range(2))
    assert again.text == first.text
    assert "event: execution.completed" in again.text
    assert again.headers["content-location"] == first.headers["content-location"]
    assert again.headers["idempotency-replayed"] == "true"


def test_a_repeated_cancel_answers_again(api: httpx.Client, agent: str) -> None:
    execution = api.post(f"/agents/{agent}/execute", json={"message": "x"}).json()["execution_id"]
    key = new_key()
    first, again = (api.post(f"/executions/{execution}/cancel", headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, again.json()) == (202, 202, first.json())
    assert again.headers["idempotency-replayed"] == "true"
