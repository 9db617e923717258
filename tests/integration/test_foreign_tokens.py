"""Tokens of an issuer with public keys, from end to end."""

import time
from collections.abc import Iterator

import pytest

from tests.conftest import KEY, SECRET, Server
from tests.integration.test_tokens import get_tokens, refresh, status
from tests.signed_tokens import KeyServer, claims, jwk, jwks, private_key, signed


@pytest.fixture(scope="module")
def key_server() -> Iterator[KeyServer]:
    members = [jwk(algorithm, f"{algorithm}-1", use="sig") for algorithm in ("RS256", "ES256", "EdDSA")]
    with KeyServer(jwks(*members)) as server:
        yield server


@pytest.fixture(scope="module")
def federated(key_server: KeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes tokens of an issuer with public keys."""
    folder = tmp_path_factory.mktemp("federated")
    started = Server(
        f"sqlite:///{folder}/test.db",
        folder,
        AI_AGENT_JWT_ALGORITHMS="RS256, ES256, EdDSA",
        AI_AGENT_JWT_JWKS_URL=key_server.url,
        AI_AGENT_JWT_ISSUER="https://issuer.example",
        AI_AGENT_JWT_AUDIENCE="ai-agent",
        AI_AGENT_OUTBOUND_ALLOW="127.0.0.0/8",
    )
    # The start begins to fetch the keys, and waits for nobody's server.
    deadline = time.monotonic() + 10
    while not key_server.asked:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield started
    started.stop()


MINE = {"iss": "https://issuer.example", "aud": "ai-agent", "scope": "sessions:read"}


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_of_an_issuer_with_public_keys_is_good(
    federated: Server, key_server: KeyServer, algorithm: str
) -> None:
    asked = key_server.asked
    good = signed(algorithm, claims(**MINE), kid=f"{algorithm}-1")
    with federated.client(good) as client:
        assert [client.get("/sessions").status_code for _ in range(3)] == [200] * 3
        assert client.get("/auth/me").json()["user"] == "alice"
    forged = signed(algorithm, claims(**MINE), kid=f"{algorithm}-1", key=private_key(algorithm, 1))
    for bad in (forged, signed(algorithm, claims(), kid=f"{algorithm}-1")):
        assert status(federated, bad) == 401
    assert key_server.asked == asked, "The keys were fetched at the start"


def test_there_a_shared_secret_counts_for_our_own_tokens_only(federated: Server) -> None:
    assert status(federated, signed("HS256", claims(**MINE), key=SECRET)) == 401
    own = get_tokens(federated)
    assert status(federated, own["access_token"]) == 200
    assert refresh(federated, own["refresh_token"]).status_code == 200


def test_a_server_whose_keys_are_away_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lonely")
    keys = {"AI_AGENT_JWT_ALGORITHMS": "RS256,HS256", "AI_AGENT_JWT_JWKS_URL": "http://127.0.0.1:9/jwks.json"}
    server = Server(f"sqlite:///{folder}/test.db", folder, **keys)
    with server.client(signed("RS256")) as client:
        away = client.get("/auth/me")
    assert (away.status_code, away.json()["code"]) == (503, "service_unavailable")
    assert int(away.headers["retry-after"]) > 0
    assert status(server, KEY) == status(server, signed("HS256", key=SECRET)) == 200
    server.stop()
    assert "AI_AGENT_OUTBOUND_ALLOW" in server.log.read_text()
