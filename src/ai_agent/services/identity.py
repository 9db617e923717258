"""Who calls: credentials are verified here, and remembered until they end, change, or might have changed unheard."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Set
from datetime import datetime
from uuid import UUID

import msgspec
import structlog

from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.fields import now
from ai_agent.domain.identity import ADMIN_SUBJECT, Principal, Scope, Tier
from ai_agent.security.api_keys import TICKET, KeyHasher, well_formed
from ai_agent.security.jwt import LEEWAY_SECONDS, Claims, EndedToken, InvalidToken, Jwt
from ai_agent.services.api_keys import ApiKeyService, stored_key
from ai_agent.services.credential_changes import TRUST_SECONDS, CredentialChanges
from ai_agent.services.single_flight import SingleFlight
from ai_agent.storage import tokens
from ai_agent.storage.database import Database

KEY_SECONDS = 60.0
LATELY_SECONDS = 600.0
"""So long an API key was good lately, behind its last good verification."""
REMEMBERED = 10_000

ANYONE = Principal(ADMIN_SUBJECT, frozenset({Scope.ADMIN}))
"""Everybody, when authentication is off."""

Listener = Callable[[Set[str] | None], None]
"""What is called with credentials that changed, `key:<id>`, `family:<id>` or `jwk:<digest>`; with None when all may."""

log = structlog.get_logger()


class _Verification(msgspec.Struct, frozen=True):
    """A principal, how many seconds that holds and was so lately, and the credentials whose change ends it."""

    principal: Principal
    seconds: float
    lately: float
    credentials: frozenset[str]


class _Remembered(msgspec.Struct, frozen=True):
    """A verification; its times are those of `time.monotonic()`."""

    principal: Principal
    until: float
    lately_until: float
    credentials: frozenset[str]


class EndedCredential(AuthenticationError):
    """A token whose signature is right, and which is good no more."""

    guessed = False


class IdentityService:
    def __init__(self, database: Database, hasher: KeyHasher, keys: ApiKeyService, tickets: KeyHasher, jwt: Jwt):
        self._database = database
        self._hasher = hasher
        self._keys = keys
        self._tickets = tickets
        self._jwt = jwt
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._forgettings = 0
        self._verifications = SingleFlight(self._verify, TRUST_SECONDS)
        self.changes = CredentialChanges(database, self.forget)
        self.listeners: list[Listener] = []
        """Told of changes when they are forgotten here."""

    async def start(self) -> None:
        await self.changes.start()
        if self._jwt.jwks is not None:
            self._jwt.jwks.start(self.forget)

    async def close(self) -> None:
        await self._verifications.close()
        await self.changes.close()
        if self._jwt.jwks is not None:
            await self._jwt.jwks.close()

    def known(self, token: str) -> Principal | None:
        """The principal of a credential that is remembered, as long as every change of it would have been heard."""
        hit = self._remembered.get(token)
        at = time.monotonic()
        return hit.principal if hit is not None and at < hit.until and at < self.changes.trusted_until else None

    def may_be_guessed(self, token: str) -> bool:
        """Whether looking at a credential asks the database what somebody may have guessed.

        That is a ticket, or a key that was not good lately.
        """
        if not token.startswith(("sk-", "wt-")):
            return False  # Nobody guesses a signature, and it is looked at first.
        hit = self._remembered.get(token)
        return hit is None or time.monotonic() >= hit.lately_until

    async def verify(self, token: str) -> Principal:
        """The principal of an API key or a JWT, as the database had it within the last second.

        A mistyped key costs no query, and one query is for all who bring the same credential at once.
        Raises AuthenticationError, the same whatever is wrong, and ServiceUnavailable.
        """
        return await self._verifications.join(token)

    async def _verify(self, token: str) -> Principal:
        forgettings = self._forgettings
        try:
            verified = await (self._key(token) if token.startswith("sk-") else self._token(token))
        except AuthenticationError:
            self._remembered.pop(token, None)
            raise
        # A change that was heard since then may be one of this credential, read before it was made: nobody would
        # hear of it a second time. So this answer is for this request only. Later changes find it remembered.
        if self._forgettings == forgettings:
            self._remember(token, verified)
        return verified.principal

    def forget(self, credentials: Set[str] | None) -> None:
        """Drops what was verified with any of these, `key:<id>`, `family:<id>` or `jwk:<digest>`; None drops all."""
        self._forgettings += 1
        self._verifications.close_doors()
        for token, held in list(self._remembered.items()):
            if credentials is None or not held.credentials.isdisjoint(credentials):
                del self._remembered[token]
        for listener in self.listeners:
            listener(credentials)

    async def redeem_ticket(self, ticket: str) -> Principal:
        """The principal who asked for a ticket, which is good once. Raises AuthenticationError, ServiceUnavailable."""
        if not well_formed(ticket, TICKET):
            raise AuthenticationError
        found = await self._take(ticket)
        at = now()
        if found is None or found.expires_at <= at or (found.valid_until is not None and found.valid_until <= at):
            raise AuthenticationError
        if found.key_id or found.family_id:  # A JWT of somebody else's is of no key.
            await self._grant(found.key_id, found.family_id)
        scopes = frozenset(msgspec.json.decode(found.scopes, type=list[str]))
        return Principal(found.subject, scopes, found.tier, found.key_id, found.family_id, found.valid_until)

    async def confirm(self, principal: Principal) -> Principal:
        """Who came with a ticket, as of now. Raises AuthenticationError when the ticket's credentials have ended."""
        if not (principal.key_id or principal.family_id):
            return principal
        grant = await self._grant(principal.key_id, principal.family_id)
        return msgspec.structs.replace(principal, expires_at=_earlier(principal.expires_at, grant.expires_at))

    async def _take(self, ticket: str) -> tokens.Ticket | None:
        """Committed before anything is looked at: also one that is refused is used up."""
        for digest in self._tickets.digests(ticket):
            # A made-up one costs no transaction.
            if await tokens.is_ticket(self._database.reader, digest):
                async with self._database.unit_of_work() as rows:
                    return await tokens.take_ticket(rows, digest)
        return None

    async def _key(self, token: str) -> _Verification:
        if not well_formed(token):
            raise AuthenticationError
        key = await stored_key(self._database.reader, self._hasher, token)
        if key is None or key.revoked_at is not None or _seconds_to(key.expires_at) <= 0:
            raise AuthenticationError
        self._keys.note_use(key)
        scopes = frozenset(msgspec.json.decode(key.scopes, type=list[str]))
        principal = Principal(key.owner_id, scopes, key.tier, key.id, expires_at=key.expires_at)
        left = _seconds_to(key.expires_at)
        credentials = frozenset({f"key:{key.id}"})
        return _Verification(principal, min(KEY_SECONDS, left), min(LATELY_SECONDS, left), credentials)

    async def _token(self, token: str) -> _Verification:
        try:
            verified = await self._jwt.verified(token)
        except EndedToken:
            raise EndedCredential from None
        except InvalidToken as error:
            log.debug("jwt_refused", reason=str(error)[:200])
            raise AuthenticationError from None
        claims, credentials = verified.claims, frozenset(filter(None, [verified.credential]))
        principal, seconds = _principal(claims), _seconds_to(claims.expires_at) + LEEWAY_SECONDS
        if claims.family_id is not None:
            grant = await self._grant(None, claims.family_id)
            # Whoever else has the secret may say what he likes, but not take a family for another owner's.
            if grant.owner_id != claims.sub:
                raise AuthenticationError
            credentials = frozenset({f"key:{grant.key_id}", f"family:{claims.family_id}"})
            seconds = min(seconds, _seconds_to(grant.expires_at))
            end = _earlier(claims.expires_at, grant.expires_at)
            principal = msgspec.structs.replace(
                principal, key_id=grant.key_id, family_id=claims.family_id, expires_at=end
            )
        return _Verification(principal, seconds, seconds, credentials)

    async def _grant(self, key_id: UUID | None, family_id: UUID | None) -> tokens.Grant:
        """What the key of a token or ticket allows now. Raises AuthenticationError when that is nothing any more."""
        reader, grant = self._database.reader, None
        if family_id is not None:
            grant = await tokens.grant_of_family(reader, family_id, now())
        elif key_id is not None:
            grant = await tokens.grant(reader, key_id, now())
        if grant is None:
            raise EndedCredential
        return grant

    def _remember(self, token: str, verified: _Verification) -> None:
        at = time.monotonic()
        until, lately_until = at + verified.seconds, at + verified.lately
        self._remembered[token] = _Remembered(verified.principal, until, lately_until, verified.credentials)
        self._remembered.move_to_end(token)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)


def _principal(claims: Claims) -> Principal:
    scopes = {scope for scope in claims.scopes if scope in set(Scope)}
    if claims.role == Scope.ADMIN:
        scopes.add(Scope.ADMIN)
    tier = Tier(claims.tier) if claims.tier in list(Tier) else Tier.AUTHENTICATED
    return Principal(claims.sub, frozenset(scopes), tier, expires_at=claims.expires_at)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return one if other is None or (one is not None and one <= other) else other


def _seconds_to(moment: datetime | None) -> float:
    return math.inf if moment is None else (moment - now()).total_seconds()
