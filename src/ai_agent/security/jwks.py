"""The public keys that verify JWTs of others, from a JWKS: fetched again and again, and kept while it is away.

Source: RFC 7517.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import jwt
import msgspec
import structlog

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.security.outbound import OutboundGuard, OutboundRefused
from ai_agent.settings import Algorithm

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
MIN_RSA_BITS = 2048

REFRESH_SECONDS = 300.0
UNKNOWN_SECONDS = 30.0
"""An unknown key id asks for the set at most that often."""
RETRY_SECONDS = 5
"""As long as there was no set at all."""
FETCH_SECONDS = 10.0
WAIT_SECONDS = 2.0
"""So long a request waits for a fetch, which goes on without it."""

_SHAPES = {Algorithm.RS256: ("RSA", None), Algorithm.ES256: ("EC", "P-256"), Algorithm.EDDSA: ("OKP", "Ed25519")}

Fetch = Callable[[], Awaitable[bytes]]

log = structlog.get_logger()


class JwksKey(msgspec.Struct, frozen=True):
    """A key for one algorithm. `credential` names it, whatever its `kid`: another key has another name."""

    credential: str
    kid: str | None
    algorithm: Algorithm
    key: jwt.PyJWK


class _Set(msgspec.Struct):
    keys: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=MAX_KEYS)]


class _Jwk(msgspec.Struct, omit_defaults=True):
    """The members that count. Private ones, and addresses of other keys, are not looked at."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


class Jwks:
    """Raises nothing while it keeps itself fresh: what goes wrong is told in the log."""

    def __init__(self, fetch: Fetch, algorithms: Collection[Algorithm]):
        self._fetch = fetch
        self._algorithms = algorithms
        self._keys: dict[str, JwksKey] | None = None
        self._left: Callable[[frozenset[str]], None] = lambda _: None
        self._asked = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._failing = False

    def start(self, left: Callable[[frozenset[str]], None]) -> None:
        """`left` is told the credentials of keys that are in the set no more."""
        self._left = left
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        for task in (self._keeping, self._fetching):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    async def key(self, algorithm: Algorithm, kid: str | None) -> JwksKey | None:
        """The one key that a token means; one without a `kid` means the only key of its algorithm.

        Raises ServiceUnavailable when there never was a set.
        """
        found = self._match(algorithm, kid)
        if found is None:
            await self._ask_again()
            found = self._match(algorithm, kid)
        if self._keys is None:
            raise ServiceUnavailable("The keys that verify tokens cannot be fetched", retry_after=RETRY_SECONDS)
        return found

    def _match(self, algorithm: Algorithm, kid: str | None) -> JwksKey | None:
        keys = (self._keys or {}).values()
        found = [key for key in keys if key.algorithm is algorithm and kid in (None, key.kid)]
        return found[0] if len(found) == 1 else None

    async def _ask_again(self) -> None:
        spacing = RETRY_SECONDS if self._keys is None else UNKNOWN_SECONDS
        if self._is_fetching() or time.monotonic() - self._asked >= spacing:
            await asyncio.wait([self._begin()], timeout=WAIT_SECONDS)

    def _is_fetching(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    def _begin(self) -> "asyncio.Task[None]":
        """One fetch for all who want one."""
        if self._fetching is None or self._fetching.done():
            self._asked = time.monotonic()
            # A context of its own: it is no part of the request that came first.
            self._fetching = asyncio.create_task(self._refresh(), context=Context())
        return self._fetching

    async def _keep(self) -> None:
        while True:
            await asyncio.wait([self._begin()])
            failed = RETRY_SECONDS if self._keys is None else UNKNOWN_SECONDS
            await asyncio.sleep(failed if self._failing else REFRESH_SECONDS)

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys = {key.credential: key for key in parse(await self._fetch(), self._algorithms)}
        except Exception as error:
            # Whatever it is: the keys of before are good, and the next time may be better.
            self._tell_failure(error)
            return
        if self._failing or self._keys is None:
            log.info("jwks_fetched", keys=len(keys))
        self._failing = False
        gone = frozenset(self._keys or ()) - keys.keys()
        self._keys = keys
        if gone:
            self._left(gone)

    def _tell_failure(self, error: Exception) -> None:
        if self._failing:
            return
        self._failing = True
        refused = isinstance(error, OutboundRefused)
        hint = "A private network is allowed with AI_AGENT_OUTBOUND_ALLOW" if refused else "Check AI_AGENT_JWT_JWKS_URL"
        log.warning("jwks_unavailable", reason=str(error)[:200] or type(error).__name__, hint=hint)


def parse(body: bytes, algorithms: Collection[Algorithm]) -> Iterator[JwksKey]:
    """The keys of a set that can be used; others are passed over. Raises msgspec.MsgspecError for what is no set."""
    for member in msgspec.json.decode(body, type=_Set).keys:
        try:
            key = _usable(msgspec.convert(member, _Jwk), algorithms)
        except (msgspec.ValidationError, jwt.PyJWTError, ValueError) as error:
            log.debug("jwks_key_unusable", reason=str(error)[:200])
            continue
        if key is not None:
            yield key


def _usable(jwk: _Jwk, algorithms: Collection[Algorithm]) -> JwksKey | None:
    shape = (jwk.kty, None if jwk.kty == "RSA" else jwk.crv)
    algorithm = next((algorithm for algorithm in algorithms if _SHAPES.get(algorithm) == shape), None)
    if algorithm is None or jwk.alg not in (None, algorithm) or jwk.use not in (None, "sig"):
        return None
    if jwk.key_ops is not None and "verify" not in jwk.key_ops:
        return None
    key = jwt.PyJWK(msgspec.to_builtins(jwk), algorithm=algorithm)
    if algorithm is Algorithm.RS256 and key.key.key_size < MIN_RSA_BITS:
        return None
    name = hashlib.sha256(msgspec.json.encode(jwk)).hexdigest()
    return JwksKey(f"jwk:{name}", jwk.kid, algorithm, key)


def fetcher(source: str, guard: OutboundGuard) -> Fetch:
    """Reads a set from an address, through the guard, or from a file."""
    if source.lower().startswith(("http://", "https://")):
        return partial(_download, source, guard)
    file = source.lower().startswith("file://")
    return partial(asyncio.to_thread, _read, Path(url2pathname(urlsplit(source).path) if file else source))


async def _download(url: str, guard: OutboundGuard) -> bytes:
    """Raises OutboundRefused, OSError, or what the library raises."""
    import httpx2

    from ai_agent.security.outbound_http import CONNECT_SECONDS, guarded_client

    timeout = httpx2.Timeout(FETCH_SECONDS, connect=CONNECT_SECONDS)
    async with guarded_client(guard, max_bytes=MAX_BYTES, timeout=timeout) as http:
        answer = await http.get(url, headers={"Accept": "application/jwk-set+json, application/json"})
    if answer.status_code != httpx2.codes.OK:
        raise OSError(f"The address answers {answer.status_code}; it is not followed elsewhere")
    return answer.content


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError("The file is too large")
    return content
