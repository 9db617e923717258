"""The public keys of others: rotated, away, asked for by a flood, and never a wrong one."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.security import jwks as module
from ai_agent.security.jwks import Jwks, fetcher, parse
from ai_agent.security.outbound import OutboundGuard
from ai_agent.settings import Algorithm
from tests.signed_tokens import KeyServer, jwk, jwks, private_key

ALL = list(Algorithm)
LOOPBACK = OutboundGuard([ip_network("127.0.0.0/8")])


class Source:
    """What is fetched, how often, and how slowly."""

    def __init__(self, *members: dict[str, Any]):
        self.body: bytes | Exception = jwks(*members)
        self.fetches = 0
        self.seconds = 0.0

    async def __call__(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(self.seconds)
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]  # a coroutine function is one


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.3)


async def knows(keys: Jwks, kid: str | None, algorithm: Algorithm = Algorithm.RS256) -> bool:
    return await keys.key(algorithm, kid) is not None


def test_a_key_that_is_new_is_found_when_a_token_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        source = Source(jwk("RS256", "old"))
        keys = Jwks(source, ALL)
        assert await knows(keys, "old")
        source.body = jwks(jwk("RS256", "old"), jwk("RS256", "new", key=private_key("RS256", 1)))
        assert not await knows(keys, "new"), "It asked less than half a minute ago"
        monkeypatch.setattr(module, "UNKNOWN_SECONDS", 0.0)
        assert await knows(keys, "new")
        assert await knows(keys, "old")

    run(scenario)


def test_a_flood_of_names_that_nobody_knows_is_one_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 5.0)

    async def scenario() -> None:
        source = Source(jwk("RS256", "known"))
        source.seconds = 0.05
        keys = Jwks(source, ALL)
        found = await asyncio.gather(*(knows(keys, f"random-{number}") for number in range(500)))
        assert (any(found), source.fetches) == (False, 1)
        await asyncio.gather(*(knows(keys, f"another-{number}") for number in range(500)))
        assert source.fetches == 1
        assert await knows(keys, "known")

    run(scenario)


def test_a_fetch_is_no_part_of_the_request_that_asks_for_it() -> None:
    async def scenario() -> None:
        seen = []

        class Watched(Source):
            async def __call__(self) -> bytes:
                seen.append(structlog.contextvars.get_contextvars())
                return await super().__call__()

        with structlog.contextvars.bound_contextvars(correlation_id="a stranger's"):
            assert await knows(Jwks(Watched(jwk("RS256", "known")), ALL), "known")
        assert seen == [{}]

    run(scenario)


def test_an_outage_keeps_the_keys_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        source = Source(jwk("RS256", "kept"))
        keys = Jwks(source, ALL)
        assert await knows(keys, "kept")
        monkeypatch.setattr(module, "UNKNOWN_SECONDS", 0.0)
        with structlog.testing.capture_logs() as told:
            for body in (OSError("away"), b"<html>", b'{"keys": 7}', b"{}", b"[]", TimeoutError()):
                source.body = body
                assert not await knows(keys, "other")
                assert await knows(keys, "kept")
            source.body = jwks(jwk("RS256", "kept"), jwk("ES256", "other"))
            assert await knows(keys, "other", Algorithm.ES256)
        assert [line["event"] for line in told] == ["jwks_unavailable", "jwks_fetched"]

    run(scenario)


def test_without_any_keys_so_far_nobody_is_told_that_his_token_is_bad() -> None:
    async def scenario() -> None:
        source = Source()
        source.body = OSError("away")
        keys = Jwks(source, ALL)
        with pytest.raises(ServiceUnavailable) as refused:
            await knows(keys, "any")
        assert int(refused.value.headers["Retry-After"]) > 0
        with pytest.raises(ServiceUnavailable):
            await knows(keys, "any")
        assert source.fetches == 1, "It is not asked again at once"

    run(scenario)


def test_a_set_that_takes_long_keeps_a_request_for_a_while_only() -> None:
    async def scenario() -> None:
        source = Source(jwk("RS256", "slow"))
        source.seconds = 0.5
        keys = Jwks(source, ALL)
        with pytest.raises(ServiceUnavailable):
            await knows(keys, "slow")
        await asyncio.sleep(0.3)
        assert await knows(keys, "slow"), "The fetch went on"
        assert source.fetches == 1

    run(scenario)


def test_a_request_that_is_cancelled_does_not_end_the_fetch_of_others() -> None:
    async def scenario() -> None:
        source = Source(jwk("RS256", "shared"))
        source.seconds = 0.1
        keys = Jwks(source, ALL)
        leaver, stayer = (asyncio.create_task(knows(keys, "shared")) for _ in range(2))
        await asyncio.sleep(0.05)
        leaver.cancel()
        assert await stayer
        assert source.fetches == 1

    run(scenario)


def test_keys_that_left_the_set_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.01)

    async def scenario() -> None:
        stays, leaves = jwk("RS256", "stays"), jwk("ES256", "leaves")
        source = Source(stays, leaves)
        keys = Jwks(source, ALL)
        key = await keys.key(Algorithm.ES256, "leaves")
        assert key is not None
        gone: list[frozenset[str]] = []
        keys.start(gone.append)
        source.body = jwks(stays)
        async with asyncio.timeout(5):
            while not gone:
                await asyncio.sleep(0.01)
        assert gone == [frozenset({key.credential})]
        assert not await knows(keys, "leaves", Algorithm.ES256)
        await keys.close()

    run(scenario)


def test_another_key_under_the_same_name_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = parse(jwks(jwk("RS256", "a")), ALL)
    (other,) = parse(jwks(jwk("RS256", "a", key=private_key("RS256", 1))), ALL)
    assert first.credential != other.credential


@pytest.mark.parametrize(
    "member",
    [
        jwk("RS256", "k", use="enc"),
        jwk("RS256", "k", key_ops=["encrypt"]),
        jwk("RS256", "k", alg="RS512"),
        jwk("RS256", "k", alg="PS256"),
        jwk("RS256", "k", alg="HS256"),
        jwk("RS256", "k", alg="none"),
        jwk("RS256", "k", alg="ES256"),
        jwk("RS256", "k", key=private_key("RS256", 0, 1024)),
        jwk("RS256", "k", kty="EC"),
        jwk("RS256", "k", n="AQAB"),
        jwk("RS256", "k", n="not base64!"),
        jwk("RS256", 7),  # type: ignore[arg-type]  # what an issuer may get wrong
        jwk("ES256", "k", crv="P-384"),
        jwk("ES256", "k", x="AAAA"),
        jwk("ES256", "k", alg="EdDSA"),
        jwk("ES256", "k", key=ec.generate_private_key(ec.SECP384R1())),
        jwk("EdDSA", "k", crv="Ed448"),
        jwk("EdDSA", "k", crv="X25519"),
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "k", "alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "k"},
        {"kid": "k"},
        {},
    ],
)
def test_a_key_that_is_for_something_else_or_too_weak_is_passed_over(member: dict[str, Any]) -> None:
    assert [key.kid for key in parse(jwks(member, jwk("EdDSA", "good")), ALL)] == ["good"]


def test_a_key_for_an_algorithm_that_is_not_allowed_is_passed_over() -> None:
    members = [jwk(algorithm, algorithm) for algorithm in ("RS256", "ES256", "EdDSA")]
    assert [key.kid for key in parse(jwks(*members), [Algorithm.HS256, Algorithm.ES256])] == ["ES256"]


def test_a_token_without_a_name_means_no_key_when_there_are_several() -> None:
    async def scenario() -> None:
        keys = Jwks(Source(jwk("RS256", "a"), jwk("RS256", "b", key=private_key("RS256", 1))), ALL)
        assert not await knows(keys, None)
        assert await knows(keys, "a")

    run(scenario)


def test_a_set_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my keys.json"
    file.write_bytes(jwks(jwk("RS256", "k")))
    for source in (str(file), file.as_uri()):
        assert asyncio.run(fetcher(source, OutboundGuard([]))()) == file.read_bytes()  # type: ignore[arg-type]  # a coroutine
    file.write_bytes(b" " * (module.MAX_BYTES + 1))
    with pytest.raises(OSError, match="too large"):
        asyncio.run(fetcher(str(file), OutboundGuard([]))())  # type: ignore[arg-type]


def test_a_set_is_fetched_from_a_network_that_the_operator_allows() -> None:
    with KeyServer(jwks(jwk("RS256", "k"))) as server:

        async def scenario() -> None:
            assert await knows(Jwks(fetcher(server.url, LOOPBACK), ALL), "k")

        run(scenario)


def test_a_private_address_is_refused_with_a_hint_and_sees_no_connection() -> None:
    with KeyServer(jwks(jwk("RS256", "k"))) as server, structlog.testing.capture_logs() as told:

        async def scenario() -> None:
            with pytest.raises(ServiceUnavailable):
                await knows(Jwks(fetcher(server.url, OutboundGuard([])), ALL), "k")

        run(scenario)
        assert server.asked == 0
    assert "AI_AGENT_OUTBOUND_ALLOW" in told[0]["hint"]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (302, {"location": "http://169.254.169.254/"}, b""),
        (404, {}, jwks(jwk("RS256", "k"))),
        (500, {}, b""),
        (200, {}, b" " * (module.MAX_BYTES + 1)),
        (200, {"content-encoding": "gzip"}, b"x"),
        (200, {}, json.dumps({"keys": [{}] * 101}).encode()),
    ],
)
def test_an_answer_that_is_no_set_is_an_outage(status: int, headers: dict[str, str], body: bytes) -> None:
    with KeyServer(body) as server:
        server.status, server.headers = status, headers

        async def scenario() -> None:
            with pytest.raises(ServiceUnavailable):
                await knows(Jwks(fetcher(server.url, LOOPBACK), ALL), "k")

        run(scenario)
        assert server.asked == 1
