"""JSON Web Tokens: what is good is understood, and no trick of those that are known passes."""

import asyncio
import hmac
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.fields import new_id
from ai_agent.security.jwks import Jwks
from ai_agent.security.jwt import Claims, EndedToken, InvalidToken, Jwt
from ai_agent.services.identity import _principal as principal_of
from ai_agent.settings import Algorithm
from tests.signed_tokens import claims, handmade, jwk, jwks, part, private_key, signed

SECRET = "a-secret-for-tokens-in-tests-of-32-characters"
OLD = "an-older-secret-for-tokens-of-32-characters"
ALL = list(Algorithm)
HEADER = {"alg": "HS256", "typ": "JWT"}


def hs256(payload: object = None, header: object = None, secret: str | bytes = SECRET) -> str:
    key = secret if isinstance(secret, bytes) else secret.encode()
    given = claims() if payload is None else payload
    return handmade(HEADER if header is None else header, given, lambda body: hmac.digest(key, body, "sha256"))


def all_algorithms(**options: Any) -> Jwt:
    async def fetch() -> bytes:
        return jwks(*(jwk(algorithm, algorithm) for algorithm in ("RS256", "ES256", "EdDSA")))

    return Jwt([SECRET, OLD], ALL, Jwks(fetch, ALL), **options)


def verified(token: str, jwt: Jwt | None = None) -> Claims:
    return asyncio.run((jwt or all_algorithms()).verified(token)).claims


def refused(token: str, jwt: Jwt | None = None) -> None:
    with pytest.raises(InvalidToken):
        verified(token, jwt)


def test_a_token_of_somebody_who_has_the_secret_is_good() -> None:
    assert verified(hs256()).sub == "alice"


def test_a_token_under_an_older_secret_is_good() -> None:
    assert verified(hs256(secret=OLD)).sub == "alice"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_under_a_key_of_the_jwks_is_good(algorithm: str) -> None:
    assert verified(signed(algorithm, kid=algorithm)).sub == "alice"
    assert verified(signed(algorithm)).sub == "alice", "There is one key of this algorithm, so no kid is needed"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_under_another_key_of_the_same_name_is_refused(algorithm: str) -> None:
    refused(signed(algorithm, key=private_key(algorithm, 1), kid=algorithm))


def test_our_own_tokens_carry_what_is_asked_of_others() -> None:
    jwt = all_algorithms(issuer="us", audience="api")
    made = jwt.signed(Claims(sub="alice", exp=time.time() + 60, family_id=new_id(), scope="a b"))
    found = verified(made, jwt)
    assert (found.sub, found.iss, found.aud, found.scopes) == ("alice", "us", "api", ["a", "b"])
    assert found.iat == pytest.approx(time.time(), abs=2)
    assert found.jti


def test_our_own_tokens_differ() -> None:
    wanted = Claims(sub="alice", exp=2_000_000_000)
    assert all_algorithms().signed(wanted) != all_algorithms().signed(wanted)


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "", None, 1, [], {}, "HS384", "RS512", "hs256"])
@pytest.mark.parametrize("signature", [b"", b"x"])
def test_an_algorithm_that_is_none_or_not_allowed_is_refused(algorithm: object, signature: bytes) -> None:
    refused(handmade({"alg": algorithm, "typ": "JWT"}, claims(), lambda _: signature))


def test_a_token_without_an_algorithm_is_refused() -> None:
    refused(hs256(header={"typ": "JWT"}))


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("named", [True, False])
def test_a_public_key_is_no_secret(encoding: Encoding, algorithm: str, named: bool) -> None:
    public = private_key(algorithm).public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    header = HEADER | ({"kid": algorithm} if named else {})
    refused(hs256(header=header, secret=public))
    refused(hs256(header=header | {"alg": algorithm}, secret=public))


def test_the_text_of_a_public_key_as_the_secret_stops_the_start() -> None:
    pem = private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ConfigurationError, match="AI_AGENT_JWT_SECRET"):
        Jwt([pem.decode()], [Algorithm.HS256])


def test_an_algorithm_that_the_settings_do_not_name_is_refused() -> None:
    refused(signed("RS256"), Jwt([SECRET], [Algorithm.HS256]))
    only_es256 = Jwt([SECRET], [Algorithm.ES256], all_algorithms().jwks)
    refused(signed("RS256", kid="RS256"), only_es256)
    refused(hs256(), only_es256)


def test_our_own_tokens_are_good_whatever_algorithms_others_may_use() -> None:
    only_es256 = Jwt([SECRET], [Algorithm.ES256], all_algorithms().jwks)
    own = only_es256.signed(Claims(sub="alice", exp=2_000_000_000, family_id=new_id()))
    assert verified(own, only_es256).sub == "alice"


def test_a_signer_with_a_public_key_cannot_speak_for_our_families() -> None:
    forged = claims(ai_agent_family=str(new_id()))
    assert verified(signed("RS256", forged)).family_id is None


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
def test_a_signature_that_is_empty_cut_or_changed_is_refused(algorithm: str) -> None:
    token = hs256() if algorithm == "HS256" else signed(algorithm)
    body, _, signature = token.rpartition(".")
    changed = ("B" if signature[4] != "B" else "C").join([signature[:4], signature[5:]])
    for bad in (f"{body}.", body, f"{body}.{signature[:-2]}", f"{body}.{changed}", f"{body}.{part(bytes(64))}"):
        refused(bad)


def test_a_payload_that_was_changed_is_refused() -> None:
    header, _, signature = hs256().split(".")
    refused(f"{header}.{part(claims(sub='mallory'))}.{signature}")


@pytest.mark.parametrize(("seconds", "good"), [(-29, True), (-31, False), (29, True), (31, True)])
def test_a_token_is_good_until_half_a_minute_past_its_end(seconds: int, good: bool) -> None:
    token = hs256(claims(exp=time.time() + seconds))
    if good:
        verified(token)
    else:
        refused(token)


def test_a_token_that_has_ended_is_told_from_one_that_somebody_made_up() -> None:
    ended = {"sub": "ada", "exp": int(time.time()) - 60}
    with pytest.raises(EndedToken):
        verified(hs256(ended))
    with pytest.raises(InvalidToken) as made_up:
        verified(hs256(ended, secret="x" * 32))
    assert not isinstance(made_up.value, EndedToken)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize(("seconds", "good"), [(-31, True), (-29, True), (29, True), (31, False)])
def test_a_token_is_good_from_half_a_minute_before_its_time(claim: str, seconds: int, good: bool) -> None:
    token = hs256(claims(**{claim: time.time() + seconds}))
    if good:
        verified(token)
    else:
        refused(token)


@pytest.mark.parametrize(
    "change",
    [
        {"exp": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
        {"sub": "@cli"},
        {"sub": "a\0"},
        {"sub": "\ud800"},
        {"sub": 7},
        {"sub": ["alice"]},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": -1},
        {"exp": 10**400},
        {"nbf": "soon"},
        {"iat": float("inf")},
        {"scope": 7},
        {"scope": [7]},
        {"scope": {"admin": True}},
        {"ai_agent_family": "me"},
    ],
)
def test_claims_that_are_missing_or_of_another_type_are_refused(change: dict[str, Any]) -> None:
    refused(hs256(claims(**change)))


@pytest.mark.parametrize("sub", ["a", "x" * 255, "auth0|42", "名前", "with space", "cli", "a@b.example"])
def test_a_subject_is_any_printable_text(sub: str) -> None:
    assert verified(hs256(claims(sub=sub))).sub == sub


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"[" * 5000, b"{}", b'{"sub":"a"}'])
def test_a_payload_that_holds_no_claims_is_refused(payload: bytes) -> None:
    refused(hs256(payload))


@pytest.mark.parametrize("issuer", [None, "them", ["us"], "us "])
def test_another_issuer_is_refused(issuer: object) -> None:
    refused(hs256(claims(iss=issuer)), all_algorithms(issuer="us"))
    assert verified(hs256(claims(iss="us")), all_algorithms(issuer="us"))


@pytest.mark.parametrize("audience", [None, "web", ["web"], [], "apis", {"api": 1}])
def test_another_audience_is_refused(audience: object) -> None:
    refused(hs256(claims(aud=audience)), all_algorithms(audience="api"))
    for good in ("api", ["web", "api"]):
        assert verified(hs256(claims(aud=good)), all_algorithms(audience="api"))


def test_whoever_issued_it_and_for_whom_does_not_matter_unless_it_is_set() -> None:
    assert verified(hs256(claims(iss="anyone", aud=["anything"])))


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        yield listener


@pytest.mark.parametrize("name", ["jku", "x5u"])
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_no_token_says_where_its_key_is(canary: socket.socket, name: str, algorithm: str) -> None:
    address = f"http://127.0.0.1:{canary.getsockname()[1]}/jwks.json"
    attackers = private_key(algorithm, 1)
    for kid in (algorithm, "attackers", address):
        refused(signed(algorithm, key=attackers, kid=kid, headers={name: address}))
    refused(signed(algorithm, key=attackers, headers={name: address}))
    with pytest.raises(TimeoutError):
        canary.accept()
    assert verified(signed(algorithm, headers={name: address})), "What it says is not read, so it does no harm"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_no_token_brings_its_key_along(algorithm: str) -> None:
    attackers = private_key(algorithm, 1)
    own = jwk(algorithm, "attackers", key=attackers)
    for name, value in {"jwk": own, "x5c": [own.get("x", own.get("n"))]}.items():
        refused(signed(algorithm, key=attackers, headers={name: value}))
        for kid in (algorithm, "attackers"):
            refused(signed(algorithm, key=attackers, kid=kid, headers={name: value}))


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": ["b64"], "b64": True}])
def test_what_must_be_understood_and_is_not_is_refused(header: dict[str, Any]) -> None:
    refused(hs256(header=HEADER | header))


@pytest.mark.parametrize(
    "kid",
    ["../../../dev/null", "/etc/passwd", "' OR '1'='1", "kéy", "\0", "x" * 4000, "", "http://127.0.0.1/", "RS256\n"],
)
def test_a_key_id_is_only_looked_up(kid: str) -> None:
    refused(signed("RS256", kid=kid))


@pytest.mark.parametrize("kid", [7, None, ["RS256"], {"a": 1}])
def test_a_key_id_that_is_no_text_is_refused(kid: object) -> None:
    refused(hs256(header=HEADER | {"kid": kid}))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "eyJ.eyJ.",
        "ü.ü.ü",
        "x" * 8193,
        "\0.\0.\0",
        hs256() + ".",
        "." + hs256(),
        hs256().replace(".", ".."),
        hs256() + "=",
        hs256() + " ",
        hs256() + ".x",
        hs256(claims(padding="x" * 8192)),
        f"{part(b'[' * 3000)}.{part({})}.{part(b'x')}",
    ],
    ids=range(17),  # Those with a time in them have no name that stays.
)
def test_what_is_no_token_is_refused(token: str) -> None:
    refused(token)


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({"scope": "sessions:read agents:read"}, {"sessions:read", "agents:read"}),
        ({"scope": ["sessions:read", "agents:read"]}, {"sessions:read", "agents:read"}),
        ({"scope": "sessions:read openid  profile sessions:fly"}, {"sessions:read"}),
        ({"scope": ""}, set()),
        ({}, set()),
        ({"role": "admin"}, {"admin"}),
        ({"role": "admin", "scope": "sessions:read"}, {"admin", "sessions:read"}),
        ({"role": "Admin"}, set()),
        ({"role": ["admin"]}, set()),
    ],
)
def test_scopes_are_those_that_are_known(given: dict[str, Any], scopes: set[str]) -> None:
    assert principal_of(verified(hs256(claims(**given)))).scopes == scopes


@pytest.mark.parametrize(
    ("tier", "counts"),
    [
        ("premium", "premium"),
        ("default", "default"),
        ("gold", "authenticated"),
        (None, "authenticated"),
        ([], "authenticated"),
    ],
)
def test_a_tier_that_nobody_knows_is_authenticated(tier: object, counts: str) -> None:
    assert principal_of(verified(hs256(claims(tier=tier)))).tier == counts
