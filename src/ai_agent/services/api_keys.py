"""API keys: made, listed, rotated and revoked, each of it in the audit log; and when they were last used."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import structlog

from ai_agent.domain.api_keys import ApiKey, ApiKeyFilter, ApiKeyPage, CreateApiKey, NewApiKey
from ai_agent.domain.audit import Action, Actor, Target
from ai_agent.domain.errors import AuthorizationError, Conflict, NotFound
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.identity import OPERATOR, Principal, Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.security.api_keys import KeyHasher, generate
from ai_agent.services.idempotency import WAIT_SECONDS, only_once
from ai_agent.services.paging import Pager
from ai_agent.storage import api_keys, audit
from ai_agent.storage.database import Connection, Database, Reader, UniqueViolation

USE_NOTED = timedelta(minutes=1)
"""How coarse `last_used_at` is."""

log = structlog.get_logger()


class ApiKeyService:
    def __init__(self, database: Database, hasher: KeyHasher, environment: str, pager: Pager):
        self._database = database
        self._hasher = hasher
        self._environment = environment
        self._pager = pager
        self._uses: dict[UUID, asyncio.Task[None]] = {}

    async def create(
        self,
        principal: Principal,
        actor: Actor,
        wanted: CreateApiKey,
        repeat: IdempotencyKey | None = None,
        *,
        text: str | None = None,
    ) -> NewApiKey:
        """Stores a key, a given one or a new one, and answers it this once.

        Raises AuthorizationError for scopes that the principal has not, Conflict for a repeat, UniqueViolation.
        """
        _check_scopes(principal, frozenset(wanted.scopes))
        made = self._new(wanted, wanted.owner_id or principal.subject, text)
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if repeat else None) as rows:
            await only_once(rows, principal.subject, repeat)
            await api_keys.insert(rows, made, self._hasher.digest(made.key))
            await _record(rows, actor, Action.KEY_CREATED, made.id, **_granted(made))
        return made

    async def ensure(self, key: str, actor: Actor) -> None:
        """Makes a given admin key when it is absent; a revoked one stays revoked."""
        if await stored_key(self._database.reader, self._hasher, key) is not None:
            return
        try:
            await self.create(OPERATOR, actor, CreateApiKey("bootstrap", [Scope.ADMIN]), text=key)
        except UniqueViolation:
            return

    async def any(self) -> bool:
        return await api_keys.count(self._database.reader) > 0

    async def list(self, principal: Principal, wanted: ApiKeyFilter, request: PageRequest) -> ApiKeyPage:
        return await self._pager.page(ApiKeyPage, api_keys.LIST, principal.subject, wanted, request)

    async def list_all(self) -> Sequence[ApiKey]:
        return await api_keys.list_all(self._database.reader)

    async def rotate(
        self,
        principal: Principal,
        actor: Actor,
        key_id: UUID,
        overlap_seconds: int,
        repeat: IdempotencyKey | None = None,
    ) -> NewApiKey:
        """A new key in the place of an old one, which stays good for some seconds; for none it is revoked.

        Raises NotFound; Conflict for a repeat, and for a key that has ended or was rotated before.
        """
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if repeat else None) as rows:
            await only_once(rows, principal.subject, repeat)
            old, at = await _locked(rows, key_id), now()
            _check_rotatable(old, at)
            _check_scopes(principal, old.scope_set())
            made = self._successor(old)
            await api_keys.insert(rows, made, self._hasher.digest(made.key))
            until, old.rotated_to = at + timedelta(seconds=overlap_seconds), made.id
            if overlap_seconds == 0:
                old.revoked_at = at
            else:
                old.expires_at = min(until, old.expires_at or until)
            await api_keys.end(rows, old)
            await _record(rows, actor, Action.KEY_ROTATED, key_id, rotated_to=made.id, overlap_seconds=overlap_seconds)
        return made

    async def revoke(self, actor: Actor, key_id: UUID) -> bool:
        """False when it is revoked already. Raises NotFound."""
        async with self._database.unit_of_work() as rows:
            key, at = await _locked(rows, key_id), now()
            if key.revoked_at is not None:
                return False
            key.revoked_at = at
            await api_keys.end(rows, key)
            await _record(rows, actor, Action.KEY_REVOKED, key_id, name=key.name, owner_id=key.owner_id)
        return True

    def note_use(self, key: ApiKey) -> None:
        """Stores that a key is used, at most once a minute, and not while its request waits."""
        at = now()
        noted = key.last_used_at is not None and key.last_used_at > at - USE_NOTED
        if not noted and key.id not in self._uses:
            # A context of its own: it is no part of the request, nor of its transaction.
            self._uses[key.id] = asyncio.create_task(self._store_use(key.id, at), context=Context())

    async def _store_use(self, key_id: UUID, at: datetime) -> None:
        try:
            await api_keys.note_use(self._database, key_id, at, at - USE_NOTED)
        except Exception:
            # The next use will do.
            log.debug("key_use_not_noted", key_id=key_id, exc_info=True)
        finally:
            del self._uses[key_id]

    async def close(self) -> None:
        """Waits for the uses that are being stored."""
        if self._uses:
            await asyncio.wait(self._uses.values())

    def _new(self, wanted: CreateApiKey, owner: str, text: str | None = None) -> NewApiKey:
        return NewApiKey(
            id=new_id(),
            name=wanted.name,
            owner_id=owner,
            scopes=to_json(list(dict.fromkeys(wanted.scopes))),
            tier=wanted.tier,
            expires_at=wanted.expires_at,
            revoked_at=None,
            rotated_to=None,
            last_used_at=None,
            created_at=now(),
            key=text or generate(self._environment),
        )

    def _successor(self, old: ApiKey) -> NewApiKey:
        values = msgspec.structs.asdict(old)
        values |= {"id": new_id(), "last_used_at": None, "created_at": now()}
        return NewApiKey(**values, key=generate(self._environment))


async def _locked(rows: Connection, key_id: UUID) -> ApiKey:
    key = await api_keys.lock(rows, key_id)
    if key is None:
        raise NotFound("API key not found")
    return key


async def _record(rows: Connection, actor: Actor, action: Action, key_id: UUID, **details: object) -> None:
    await audit.record(rows, actor, action, Target("api_key", str(key_id)), details)


def _granted(key: ApiKey) -> dict[str, object]:
    return {name: getattr(key, name) for name in ("name", "owner_id", "scopes", "tier", "expires_at")}


def _check_scopes(principal: Principal, scopes: frozenset[str]) -> None:
    """Nobody gives what he has not."""
    if missing := sorted(scope for scope in scopes if not principal.may(scope)):
        message = f"You cannot give scopes that you do not have: {', '.join(missing)}"
        raise AuthorizationError(message, details={"scopes": missing})


def _check_rotatable(key: ApiKey, at: datetime) -> None:
    if key.rotated_to is not None:
        raise Conflict("The key was rotated already", details={"rotated_to": str(key.rotated_to)})
    if key.revoked_at is not None:
        raise Conflict("The key is revoked")
    if key.expired(at):
        raise Conflict("The key has expired")


async def stored_key(reader: Reader, hasher: KeyHasher, key: str) -> ApiKey | None:
    """The key's row, also one that was made under an older secret key."""
    for digest in hasher.digests(key):
        if (stored := await api_keys.by_digest(reader, digest)) is not None:
            return stored
    return None
