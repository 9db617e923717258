"""JSON Web Tokens: those of others are verified, our own are made and verified.

Which key verifies follows from the algorithm, and never from what the token brings along: HS256 knows the secret only,
the others know the JWKS only. Sources: RFC 7515, RFC 7519, RFC 8725 (best current practices).
"""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import jwt
import msgspec
from jwt.api_jws import PyJWS
from msgspec import Meta

from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.fields import new_id
from ai_agent.domain.identity import BUILT_IN
from ai_agent.security.jwks import Jwks, JwksKey
from ai_agent.settings import Algorithm

LEEWAY_SECONDS = 30
MAX_LENGTH = 8192

_YEAR_10_000 = 253_402_300_800
_Time = Annotated[float, Meta(ge=0, lt=_YEAR_10_000)]
# Without padding, which the library would let pass: one token, one text.
_COMPACT = re.compile(r"(?:[\w-]+\.){2}[\w-]+", re.ASCII)
_jws = PyJWS()


class InvalidToken(Exception):
    """Says why, for the log: the client is told nothing but that it is not accepted."""


class EndedToken(InvalidToken):
    """Its signature is right, and its time is over."""


class Claims(msgspec.Struct, omit_defaults=True):
    """What a token says; what else it says does not matter. Times are seconds since the epoch.

    The last one is in our own tokens: the family that they come from, which tells the API key.
    """

    sub: Annotated[str, Meta(min_length=1, max_length=255)]
    exp: _Time
    nbf: _Time | None = None
    iat: _Time | None = None
    jti: Any = None
    iss: str | None = None
    aud: str | list[str] | None = None
    scope: str | list[str] = ""
    tier: Any = None
    role: Any = None
    family_id: UUID | None = msgspec.field(default=None, name="ai_agent_family")

    @property
    def scopes(self) -> list[str]:
        return self.scope.split() if isinstance(self.scope, str) else self.scope

    @property
    def expires_at(self) -> datetime:
        return datetime.fromtimestamp(self.exp, UTC)


class Verified(msgspec.Struct, frozen=True):
    """The claims of a good token, and the credential of the JWKS' key that verified it."""

    claims: Claims
    credential: str | None


class Jwt:
    """`secrets` are the newest first; `jwks` is there when an algorithm needs it."""

    def __init__(
        self,
        secrets: Sequence[str],
        algorithms: Sequence[Algorithm],
        jwks: Jwks | None = None,
        *,
        issuer: str | None = None,
        audience: str | None = None,
    ):
        self._secrets = [_hmac_key(secret) for secret in secrets]
        self._algorithms = frozenset(algorithms)
        self.jwks = jwks
        self._issuer = issuer
        self._audience = audience

    def signed(self, claims: Claims) -> str:
        """A token of our own, with what a token of ours says besides."""
        own = msgspec.structs.replace(
            claims, iat=int(time.time()), jti=str(new_id()), iss=self._issuer, aud=self._audience
        )
        return _jws.encode(msgspec.json.encode(own), self._secrets[0], algorithm=Algorithm.HS256)

    async def verified(self, token: str) -> Verified:
        """Raises InvalidToken, ServiceUnavailable when there never was a JWKS."""
        algorithm, kid = _header(token)
        if algorithm is Algorithm.HS256:
            claims = self._checked(_payload(token, algorithm, self._secrets))
            if claims.family_id is None and Algorithm.HS256 not in self._algorithms:
                raise InvalidToken("HS256 is for our own tokens only")
            return Verified(claims, None)
        key = await self._public_key(algorithm, kid)
        claims = self._checked(_payload(token, algorithm, [key.key]))
        # Whoever signs with a public key's other half is not us, and cannot speak for our families.
        claims.family_id = None
        return Verified(claims, key.credential)

    async def _public_key(self, algorithm: Algorithm, kid: str | None) -> JwksKey:
        if self.jwks is None or algorithm not in self._algorithms:
            raise InvalidToken(f"{algorithm} is not accepted")
        key = await self.jwks.key(algorithm, kid)
        if key is None:
            raise InvalidToken("The JWKS has no such key")
        return key

    def _checked(self, payload: bytes) -> Claims:
        try:
            claims = msgspec.json.decode(payload, type=Claims)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidToken(f"Claims: {error}") from None
        if not claims.sub.isprintable() or claims.sub.startswith(BUILT_IN):
            raise InvalidToken("sub cannot be printed, or is a name of ours")
        _check_times(claims)
        if self._issuer is not None and claims.iss != self._issuer:
            raise InvalidToken("iss is another")
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if self._audience is not None and self._audience not in audiences:
            raise InvalidToken("aud is another")
        return claims


def _hmac_key(secret: str) -> bytes:
    """Raises ConfigurationError for the text of a public key, which is no secret."""
    try:
        return bytes(_jws.get_algorithm_by_name(Algorithm.HS256).prepare_key(secret))
    except jwt.InvalidKeyError:
        raise ConfigurationError("AI_AGENT_JWT_SECRET is a public key", "Set it to 32 random characters") from None


def _header(token: str) -> tuple[Algorithm, str | None]:
    """The algorithm and the key's id, which is only looked up. Where to find other keys (`jku`, …) is not read."""
    if len(token) > MAX_LENGTH or not _COMPACT.fullmatch(token):
        raise InvalidToken("No JWT")
    try:
        header = _jws.get_unverified_header(token)
        if "crit" in header:
            raise InvalidToken("crit is not understood")
        return Algorithm(header.get("alg", "")), header.get("kid")
    except (jwt.PyJWTError, ValueError) as error:
        raise InvalidToken(f"Header: {error}") from None


def _payload(token: str, algorithm: Algorithm, keys: Sequence[bytes | jwt.PyJWK]) -> bytes:
    """The payload, when one of the keys has signed it."""
    for key in keys:
        try:
            return bytes(_jws.decode(token, key, algorithms=[algorithm]))
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise InvalidToken(str(error)) from None
    raise InvalidToken("The signature is not ours")


def _check_times(claims: Claims) -> None:
    at = time.time()
    if claims.exp <= at - LEEWAY_SECONDS:
        raise EndedToken("exp is past")
    if max(claims.nbf or 0, claims.iat or 0) > at + LEEWAY_SECONDS:
        raise InvalidToken("nbf or iat is to come")
