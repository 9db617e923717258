"""Webhooks: what a `callback_url` is told, how often it is tried, and where the server does not go."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from ai_agent.storage import deliveries
from ai_agent.storage.database import Database
from ai_agent.storage.deliveries import Attempt
from tests.conftest import SECRET, Server
from tests.integration.test_agents import execute
from tests.integration.test_database import opened
from tests.integration.test_identity import Caller
from tests.model_server import ModelServer, Reply
from tests.webhook_receiver import Canary, Got, Receiver, Says
from tests.webhooks import agent, delivery, finished, hooked_server, run, settled


@pytest.fixture(scope="module")
def server(database_url: str, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = hooked_server(database_url, model, tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


def signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """As the Standard Webhooks specification has it, "Signature scheme"."""
    prefix, _, encoded = secret.partition("_")
    assert prefix == "whsec"
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(base64.b64decode(encoded), signed, hashlib.sha256).digest()).decode()


def verified(got: Got, secret: str) -> dict[str, Any]:
    """The message, checked as receivers are told to."""
    message_id, timestamp = got.headers["webhook-id"], got.headers["webhook-timestamp"]
    assert abs(int(timestamp) - time.time()) < 300
    assert signature(secret, message_id, timestamp, got.body) in got.headers["webhook-signature"].split(" ")
    return dict(json.loads(got.body))


def secret_of(api: httpx.Client) -> str:
    return str(api.get("/webhook-secret").json()["secret"])


def test_these_tests_sign_as_the_specification_does() -> None:
    example = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")
    signed = signature(*example, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_end_of_a_run_is_told_with_a_signature(api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.url + path)
    (got,) = receiver.wait(path, 1)
    message = verified(got, secret_of(api))
    assert message["type"] == "execution.completed"
    assert message["data"] == api.get(f"/executions/{execution_id}").json()
    assert datetime.fromisoformat(message["timestamp"]) >= datetime.fromisoformat(message["data"]["finished_at"])
    assert (got.headers["content-type"], got.headers["user-agent"]) == ("application/json", "ai-agent")
    item = finished(api, execution_id)
    assert (item["status"], item["attempts"], item["response_status"]) == ("delivered", 1, 200)
    assert (item["id"], item["event"], item["url"]) == (
        got.headers["webhook-id"],
        "execution.completed",
        receiver.url + path,
    )
    assert item["next_attempt_at"] is item["error"] is None
    assert item["finished_at"] >= item["created_at"]


def test_a_delivery_begins_at_once(api: httpx.Client, receiver: Receiver, path: str) -> None:
    agent_id = agent(api)
    run(api, receiver.url + path, agent_id)
    times = []
    for number in range(5):
        run(api, f"{receiver.url}{path}{number}", agent_id)
        answered = time.monotonic()
        times.append(receiver.wait(f"{path}{number}", 1)[0].at - answered)
    assert sorted(times)[2] < 0.3


def test_a_run_that_fails_or_is_cancelled_is_told_too(
    api: httpx.Client, model: ModelServer, receiver: Receiver, path: str
) -> None:
    agent_id = agent(api)
    model.script(Reply(status=400))
    run(api, f"{receiver.url}{path}-failed", agent_id)
    message = json.loads(receiver.wait(f"{path}-failed", 1)[0].body)
    assert (message["type"], message["data"]["error"]["code"]) == ("execution.failed", "external_service_error")
    model.script(Reply("word " * 100, delay=0.05))
    body = {"message": "x", "callback_url": f"{receiver.url}{path}-cancelled"}
    accepted = api.post(f"/agents/{agent_id}/execute", json=body, headers={"Prefer": "respond-async"}).json()
    api.post(f"/executions/{accepted['id']}/cancel")
    message = json.loads(receiver.wait(f"{path}-cancelled", 1)[0].body)
    assert (message["type"], message["data"]["status"]) == ("execution.cancelled", "cancelled")


def test_a_run_without_a_callback_has_no_deliveries(api: httpx.Client) -> None:
    answer = api.post(f"/agents/{agent(api)}/execute", json={"message": "x"}).json()
    assert api.get(f"/executions/{answer['execution_id']}/deliveries").json()["items"] == []


def test_what_fails_is_tried_again_under_the_same_id(api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.script(path, Says(500), Says(500)))
    attempts = receiver.wait(path, 3)
    item = finished(api, execution_id)
    assert (item["status"], item["attempts"], item["response_status"], item["error"]) == ("delivered", 3, 200, None)
    assert {got.headers["webhook-id"] for got in attempts} == {item["id"]}
    assert len({got.body for got in attempts}) == 1
    secret = secret_of(api)
    assert all(verified(got, secret) for got in attempts)


def test_what_fails_six_times_is_given_up(api: httpx.Client, receiver: Receiver, path: str) -> None:
    answers = [Says(503, body=b"words of the receiver")] * 5 + [Says(400)]
    execution_id = run(api, receiver.script(path, *answers))
    receiver.wait(path, 6, seconds=40)
    item = finished(api, execution_id)
    assert (item["status"], item["attempts"], item["response_status"]) == ("failed", 6, 400)
    assert item["error"] == "The receiver answered 400"
    time.sleep(1.5)
    assert len(receiver.got(path)) == 6


def test_while_it_waits_a_delivery_says_when_it_is_tried_next(api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.script(path, Says(429, {"Retry-After": "1800"}, b"words of the receiver")))
    receiver.wait(path, 1)
    item = settled(api, execution_id)
    assert (item["status"], item["attempts"], item["response_status"]) == ("pending", 1, 429)
    assert item["error"] == "The receiver answered 429"
    wait = datetime.fromisoformat(item["next_attempt_at"]) - datetime.now(UTC)
    assert timedelta(seconds=1780) < wait <= timedelta(seconds=1800)


def test_a_receiver_that_is_gone_is_asked_once(api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.script(path, Says(410)))
    item = finished(api, execution_id)
    assert (item["status"], item["attempts"], item["response_status"]) == ("failed", 1, 410)


def test_an_answer_without_end_is_not_read(api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.script(path, Says(200, {"Content-Length": str(10**12)}, b"x" * 10**6)))
    assert finished(api, execution_id, seconds=5)["status"] == "delivered"


def test_nobody_listening_is_told_as_no_connection(api: httpx.Client) -> None:
    canary = Canary("127.0.0.1")
    canary.close()
    item = settled(api, run(api, canary.url))
    assert item["error"] == "No connection, or it broke: ConnectError"
    assert item["response_status"] is None


@pytest.mark.parametrize("url", ["http://127.0.0.2/", "http://169.254.169.254/latest", "ftp://x", "nothing", ""])
def test_an_address_inside_is_refused_when_it_is_written(api: httpx.Client, url: str) -> None:
    refused = api.post(f"/agents/{agent(api)}/execute", json={"message": "x", "callback_url": url})
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["validation_errors"]] == ["callback_url"]


def test_an_address_that_is_too_long_is_refused(api: httpx.Client) -> None:
    body = {"message": "x", "callback_url": "https://example.com/" + "x" * 2048}
    refused = api.post(f"/agents/{agent(api)}/execute", json=body)
    assert [error["field"] for error in refused.json()["validation_errors"]] == ["callback_url"]


def test_an_address_inside_is_never_connected_to(
    api: httpx.Client, receiver: Receiver, path: str, database_url: str
) -> None:
    """As if it had been allowed when it was written, or a name had led there since."""
    canary = Canary("127.0.0.2")
    execution_id = run(api, receiver.url + path)
    item = finished(api, execution_id)
    execute(database_url, f"UPDATE webhook_deliveries SET url = '{canary.url}' WHERE id = '{item['id']}'")
    api.post(f"/executions/{execution_id}/deliveries/{item['id']}/resend")
    assert settled(api, execution_id)["error"] == "The server does not connect to this address"
    assert not canary.was_reached()
    canary.close()


def test_a_redirect_is_followed_nowhere(api: httpx.Client, receiver: Receiver, path: str) -> None:
    canary = Canary("127.0.0.1")
    for status, target in ((302, "http://169.254.169.254/"), (307, canary.url), (308, canary.url)):
        address = f"{path}-{status}-{len(target)}"
        execution_id = run(api, receiver.script(address, Says(status, {"Location": target})))
        receiver.wait(address, 2)
        assert finished(api, execution_id)["status"] == "delivered"
    assert not canary.was_reached()
    canary.close()


def test_a_finished_delivery_can_be_sent_again(api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.script(path, Says(410)))
    item = finished(api, execution_id)
    address = f"/executions/{execution_id}/deliveries/{item['id']}/resend"
    again = api.post(address, headers={"Idempotency-Key": path})
    assert (again.status_code, again.json()["status"], again.json()["attempts"]) == (202, "pending", 0)
    assert again.json()["finished_at"] is again.json()["error"] is again.json()["response_status"] is None
    assert finished(api, execution_id)["status"] == "delivered"
    first, second = receiver.wait(path, 2)
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    repeat = api.post(address, headers={"Idempotency-Key": path})
    assert (repeat.headers["idempotency-replayed"], repeat.json()) == ("true", again.json())
    time.sleep(1.2)
    assert len(receiver.got(path)) == 2


def test_a_pending_delivery_is_not_sent_again(api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.script(path, Says(503, {"Retry-After": "600"})))
    item = settled(api, execution_id)
    refused = api.post(f"/executions/{execution_id}/deliveries/{item['id']}/resend")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert delivery(api, execution_id) == item


def test_deliveries_are_their_owners_only(server: Server, api: httpx.Client, receiver: Receiver, path: str) -> None:
    execution_id = run(api, receiver.url + path)
    item = finished(api, execution_id)
    another = run(api, receiver.url + path)
    resend = f"/executions/{execution_id}/deliveries/{item['id']}/resend"
    with Caller(server, "somebody", "agents:execute") as other:
        assert other.http.get(f"/executions/{execution_id}/deliveries").status_code == 404
        assert other.http.post(resend).status_code == 404
        assert secret_of(other.http) != secret_of(api)
    assert api.post(resend.replace(item["id"], str(uuid.uuid4()))).status_code == 404
    assert api.post(resend.replace(execution_id, another)).status_code == 404
    assert api.get(f"/executions/{uuid.uuid4()}/deliveries").status_code == 404


def test_of_many_who_want_an_attempt_one_gets_it(
    api: httpx.Client, receiver: Receiver, path: str, database_url: str
) -> None:
    execution_id = run(api, receiver.script(path, Says(503, {"Retry-After": "600"})))
    item = settled(api, execution_id)

    async def take(database: Database) -> Attempt | None:
        async with database.unit_of_work() as rows:
            return await deliveries.take(rows, uuid.UUID(item["id"]), 5)

    async def race() -> list[Attempt | None]:
        async with opened(database_url) as database:
            return await asyncio.gather(*[take(database) for _ in range(8)])

    sql = f"UPDATE webhook_deliveries SET next_attempt_at = created_at WHERE id = '{item['id']}'"
    execute(database_url, sql)
    taken = [attempt for attempt in asyncio.run(race()) if attempt is not None]
    assert len(taken) <= 1  # None where the server was faster than all of them.
    assert delivery(api, execution_id)["attempts"] == 2


def test_after_a_change_of_the_secret_key_there_is_a_signature_of_each(
    database_url: str, model: ModelServer, receiver: Receiver, path: str, server: Server
) -> None:
    with server.client() as api:
        old = secret_of(api)
    server.stop()
    before = dict(server.environment)
    server.environment |= {"AI_AGENT_SECRET_KEY": "n" * 40, "AI_AGENT_SECRET_KEY_FALLBACKS": SECRET}
    server.start()
    try:
        with server.client() as api:
            new = secret_of(api)
            run(api, receiver.url + path)
        (got,) = receiver.wait(path, 1)
        assert new != old
        assert verified(got, new) == verified(got, old)
        assert len(got.headers["webhook-signature"].split(" ")) == 2
    finally:
        server.stop()
        server.environment = before
        server.start()


def test_the_secret_is_in_no_log_and_kept_by_no_cache(server: Server) -> None:
    with server.client() as api:
        answer = api.get("/webhook-secret")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["secret"].removeprefix("whsec_") not in server.log.read_text()
