"""Who may open a socket, how it says who it is, and that this ends when the credentials do."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import KEY, Server
from tests.sockets import Frame, Socket, conversing, opened
from tests.two_nodes import Nodes, nodes, somebody, ticket, tokens

__all__ = ["nodes"]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Short tokens, few tries, and addresses as a proxy tells them."""
    folder = tmp_path_factory.mktemp("strict")
    settings = {
        "AI_AGENT_TOKEN_SECONDS": "2",
        "AI_AGENT_RATE_LIMIT_AUTH_FAILURE": "3/minute",
        "AI_AGENT_TRUSTED_PROXIES": "127.0.0.1/32",
    }
    started = Server(f"sqlite:///{folder}/test.db", folder, **settings)
    yield started
    started.stop()


@pytest.fixture
def elsewhere() -> dict[str, str]:
    """Headers of a client at an address of its own."""
    host = uuid.uuid4().int
    return {"X-Forwarded-For": f"198.{18 + host % 2}.{host // 2 % 256}.{host // 512 % 256}"}


def refused(socket: Socket) -> tuple[str, int, str]:
    """The error that a client is told, the code that its socket is closed with, and that of `bye`'s reason."""
    frames, code, reason = socket.closed()
    error, bye = frames
    assert (error["t"], bye["t"], bye["code"], bye["reason"]) == ("error", "bye", code, reason)
    return error["code"], code, reason


def is_welcome(frame: Frame) -> bool:
    return bool(frame["t"] == "welcome")


def test_the_first_frame_says_who_it_is(strict: Server) -> None:
    caller = somebody(strict)
    for token in (caller.key, tokens(strict, caller.key)["access_token"]):
        with opened(strict) as socket:
            welcome = socket.connect(token)
            assert (welcome["t"], welcome["user"]) == ("welcome", caller.owner)


def test_who_is_no_browser_may_send_a_header_instead(strict: Server) -> None:
    caller, other = somebody(strict), somebody(strict)
    with opened(strict, additional_headers={"Authorization": f"Bearer {caller.key}"}) as socket:
        assert socket.connect(None)["user"] == caller.owner
    with opened(strict, additional_headers={"Authorization": f"Bearer {caller.key}"}) as socket:
        assert socket.connect(other.key)["user"] == other.owner


def test_who_does_not_say_who_it_is_is_told_so(strict: Server) -> None:
    with opened(strict) as socket:
        socket.send({"t": "connect"})
        assert refused(socket) == ("authentication_error", 4401, "unauthenticated")


@pytest.mark.parametrize(
    "header", ["Bearer sk-test-nobody", "Basic YWRtaW46YWRtaW4=", f"Basic {KEY}", "", "Bearer "], ids=range(5)
)
def test_a_header_that_says_nothing_good_is_refused(strict: Server, elsewhere: dict[str, str], header: str) -> None:
    with opened(strict, additional_headers={"Authorization": header} | elsewhere) as socket:
        assert refused(socket) == ("authentication_error", 4401, "unauthenticated")


def test_a_bad_token_is_refused(strict: Server, elsewhere: dict[str, str]) -> None:
    with opened(strict, additional_headers=elsewhere) as socket:
        socket.send({"t": "connect", "token": "sk-test-nobody"})
        assert refused(socket) == ("authentication_error", 4401, "unauthenticated")


def test_the_servers_own_page_may(strict: Server) -> None:
    with opened(strict, origin=strict.url) as socket:
        assert is_welcome(socket.connect())


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost:{port}", ""]
)
def test_no_other_page_may_though_it_has_a_key(strict: Server, origin: str) -> None:
    headers = {"Origin": origin.format(port=strict.port), "Authorization": f"Bearer {KEY}"}
    with opened(strict, additional_headers=headers) as socket:
        assert refused(socket) == ("authorization_error", 4403, "forbidden")


def test_a_ticket_opens_one_socket(nodes: Nodes) -> None:
    here, there = nodes
    caller = somebody(here)
    path = f"/ws?ticket={ticket(here, caller.key)}"
    with opened(there, path) as socket:
        assert socket.connect(None)["user"] == caller.owner
    for node in nodes:
        with opened(node, path) as socket:
            assert refused(socket) == ("authentication_error", 4401, "unauthenticated")


def test_a_ticket_is_used_up_also_where_nobody_spoke(strict: Server) -> None:
    path = f"/ws?ticket={ticket(strict, somebody(strict).key)}"
    with opened(strict, path):
        time.sleep(0.2)
    with opened(strict, path) as socket:
        assert refused(socket) == ("authentication_error", 4401, "unauthenticated")


@pytest.mark.parametrize(
    "query",
    [
        "token={key}",
        "{key}",
        "{key}=",
        "access_token={key}",
        "api_key={key}",
        "key={key}",
        "ticket={key}",
        "TOKEN=",
        "x={jwt}",
        "{two}",
    ],
)
def test_no_other_credentials_are_taken_from_an_address(strict: Server, elsewhere: dict[str, str], query: str) -> None:
    caller = somebody(strict)
    two = f"ticket={ticket(strict, caller.key)}&ticket={ticket(strict, caller.key)}"
    query = query.format(key=caller.key, jwt=tokens(strict, caller.key)["access_token"], two=two)
    with opened(strict, f"/ws?{query}", additional_headers=elsewhere) as socket:
        assert refused(socket) == ("authentication_error", 4401, "unauthenticated")


def test_what_else_stands_in_an_address_is_nobodys_business(strict: Server) -> None:
    with opened(strict, "/ws?v=1&trace=abc") as socket:
        assert is_welcome(socket.connect())


def test_too_many_bad_credentials_of_an_address_are_not_looked_at(strict: Server, elsewhere: dict[str, str]) -> None:
    for attempt in range(4):
        with opened(strict, additional_headers=elsewhere) as socket:
            socket.send({"t": "connect", "token": f"sk-test-{attempt}"})
            expected = ("authentication_error", 4401) if attempt < 3 else ("rate_limit_error", 4429)
            assert refused(socket)[:2] == expected
    with opened(strict, additional_headers=elsewhere) as socket:
        socket.send({"t": "connect", "token": "sk-test-good-perhaps"})
        (error, bye), code, _ = socket.closed()
        assert 0 < error["retry_after_ms"] <= 60_000
        assert (code, bye["reconnect"]) == (4429, True)


def test_an_address_has_one_bucket_for_all_that_it_tries(strict: Server, elsewhere: dict[str, str]) -> None:
    with strict.client("sk-test-nobody") as caller:
        assert [caller.get("/sessions", headers=elsewhere).status_code for _ in range(3)] == [401] * 3
    for path in ("/ws?ticket=wt-test-nobody", "/ws"):
        with opened(strict, path, additional_headers=elsewhere | {"Authorization": "Bearer sk-test-nobody"}) as socket:
            assert refused(socket)[:2] == ("rate_limit_error", 4429)
    with opened(strict, additional_headers=elsewhere | {"Authorization": f"Bearer {KEY}"}) as socket:
        assert is_welcome(socket.connect(None)), "Who is known is not asked to wait"


def test_without_authentication_everybody_is_admin(tmp_path: Any) -> None:
    server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, AI_AGENT_AUTH="disabled")
    try:
        for token in (None, "whatever"):
            with opened(server) as socket:
                assert socket.connect(token)["user"] == "admin"
        with opened(server, origin="https://evil.example") as socket:
            assert refused(socket)[1] == 4403
    finally:
        server.stop()


def test_credentials_that_end_soon_are_told_and_renewed_in_place(strict: Server) -> None:
    caller = somebody(strict)
    first = tokens(strict, caller.key)
    with conversing(strict, token=first["access_token"]) as socket:
        warning = socket.receive()
        assert warning["t"] == "auth_expiring"
        assert 0 < warning["in_ms"] <= 2000
        answer = socket.ask("auth", token=caller.key)
        assert (answer["t"], answer["data"]) == ("reply", {"expires_at": None})
        again = socket.ask("auth", token=tokens(strict, caller.key)["access_token"])
        assert 0 < again["data"]["expires_at"] - time.time() * 1000 <= 2000
        assert socket.receive()["t"] == "auth_expiring"


def test_they_are_renewed_by_their_owner_only(strict: Server, elsewhere: dict[str, str]) -> None:
    caller, other = somebody(strict), somebody(strict)
    with conversing(strict, token=caller.key) as socket:
        assert socket.ask("auth", token=other.key)["code"] == "authorization_error"
        assert socket.ask("auth", token="sk-test-nobody")["code"] == "authentication_error"
        assert socket.ask("ping")["t"] == "pong", "It goes on with those that it has"


def test_what_new_credentials_do_not_carry_ends(strict: Server) -> None:
    caller = somebody(strict, "sessions:read", "sessions:write", "topics:read", "agents:read")
    less = somebody(strict, "sessions:read", owner=caller.owner)
    with strict.client(caller.key) as api:
        session = api.post("/sessions", json={}).json()["id"]
    with conversing(strict, token=caller.key) as socket:
        for channel in ("topic:news", f"session:{session}", "system"):
            assert socket.ask("subscribe", ch=channel)["t"] == "subscribed"
            assert socket.receive()["t"] == "live"
        assert socket.ask("auth", token=less.key)["t"] == "reply"
        assert socket.receive() == {"t": "unsubscribed", "ch": "topic:news", "reason": "revoked"}
        assert socket.ask("subscribe", ch="topic:news")["code"] == "authorization_error"
        assert socket.ask("subscribe", ch="system")["code"] == "already_subscribed"
        assert socket.ask("subscribe", ch=f"session:{session}")["code"] == "already_subscribed"


def test_a_revoked_key_closes_all_that_it_opened_on_every_node_within_a_second(nodes: Nodes) -> None:
    here, there = nodes
    caller, other = somebody(here), somebody(here)
    made = tokens(here, caller.key)["access_token"]
    with (
        conversing(here, token=caller.key) as by_key,
        conversing(there, token=caller.key) as by_key_there,
        conversing(there, token=made) as by_token,
        opened(here, f"/ws?ticket={ticket(there, caller.key)}") as by_ticket,
        conversing(there, token=other.key) as untouched,
    ):
        assert is_welcome(by_ticket.connect(None))
        with here.client() as admin:
            assert admin.delete(f"/admin/keys/{caller.key_id}").status_code == 204
        revoked = time.monotonic()
        for socket in (by_key, by_key_there, by_token, by_ticket):
            (bye,), code, reason = socket.closed(2)
            assert (code, reason, bye["reconnect"]) == (4451, "revoked", False)
        assert time.monotonic() - revoked < 1.1
        assert untouched.ask("ping")["t"] == "pong"


def test_a_revoked_token_closes_what_was_opened_with_it_and_not_with_its_key(nodes: Nodes) -> None:
    here, there = nodes
    caller = somebody(here)
    made = tokens(here, caller.key)
    with (
        conversing(there, token=made["access_token"]) as by_token,
        opened(there, f"/ws?ticket={ticket(here, made['access_token'])}") as by_ticket,
        conversing(there, token=caller.key) as by_key,
    ):
        assert is_welcome(by_ticket.connect(None))
        with here.client("") as nobody:
            assert nobody.post("/auth/revoke", json={"refresh_token": made["refresh_token"]}).status_code == 204
        for socket in (by_token, by_ticket):
            assert socket.closed(2)[1:] == (4451, "revoked")
        assert by_key.ask("ping")["t"] == "pong"


def test_the_overlap_of_a_rotated_key_is_when_its_sockets_end(nodes: Nodes) -> None:
    here, there = nodes
    caller = somebody(here)
    with (
        conversing(there, token=caller.key) as by_key,
        conversing(there, token=tokens(here, caller.key)["access_token"]) as by_token,
    ):
        with here.client() as admin:
            assert admin.post(f"/admin/keys/{caller.key_id}/rotate", json={"overlap_seconds": 30}).is_success
        for socket in (by_key, by_token):
            warning = socket.receive(2)
            assert warning["t"] == "auth_expiring"
            assert 28_000 < warning["in_ms"] <= 30_000


def test_no_log_holds_what_opens_a_socket(strict: Server) -> None:
    caller = somebody(strict)
    secrets = [caller.key, tokens(strict, caller.key)["access_token"], ticket(strict, caller.key)]
    with opened(strict, f"/ws?ticket={secrets[2]}") as socket:
        socket.connect(None)
        socket.ask("auth", token=secrets[1])
        socket.send({"t": "auth", "token": [secrets[0]]})
        assert secrets[0] not in str(socket.receive())
    for secret in secrets[:2]:
        with opened(strict, f"/ws?token={secret}") as socket:
            socket.closed()
    time.sleep(0.2)
    text = strict.log.read_text()
    assert "WEBSOCKET" in text
    assert not [secret for secret in secrets if secret in text]
