"""`/admin`: API keys of all owners, limits of single principals, the audit log, and the server as a whole."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, PathParameter

from ai_agent.api.dependencies import Caller, actor
from ai_agent.api.guards import needs
from ai_agent.api.idempotency import ONCE, idempotency_key
from ai_agent.api.openapi import UNCONDITIONAL
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.domain.administration import Configuration, Stats
from ai_agent.domain.api_keys import ApiKeyFilter, ApiKeyPage, CreateApiKey, NewApiKey, RotateApiKey
from ai_agent.domain.audit import Action, AuditFilter, AuditPage
from ai_agent.domain.identity import Scope, Tier
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.rate_limit_overrides import (
    OverrideRateLimits,
    PrincipalRateLimits,
    RateLimitOverride,
    RateLimitOverrideFilter,
    RateLimitOverridePage,
)
from ai_agent.services.administration import AdministrationService
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.audit import AuditService
from ai_agent.services.rate_limit_overrides import RateLimitOverrides

Subject = Annotated[str, PathParameter(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]


class AdminController(Controller):
    path = "/admin"
    tags = ["Administration"]

    @get("/keys", opt=needs(Scope.ADMIN))
    async def list_api_keys(
        self,
        request: Caller,
        api_keys: NamedDependency[ApiKeyService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["created_at", "name"]] = "created_at",
        sort_order: SortOrder = "desc",
        owner_id: FromQuery[str | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[ApiKeyPage]:
        """List API keys

        Those of all owners, also expired and revoked ones, the newest first unless sorted otherwise. The keys
        themselves are stored nowhere, and shown only once, when they are made.
        """
        wanted = ApiKeyFilter(owner_id=owner_id, created_after=created_after, created_before=created_before)
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await api_keys.list(request.user, wanted, page))

    @post("/keys", opt=needs(Scope.ADMIN) | ONCE)
    async def create_api_key(
        self, request: Caller, data: JSONBody[CreateApiKey], api_keys: NamedDependency[ApiKeyService]
    ) -> NewApiKey:
        """Create an API key

        The answer holds the key, this once: it is never stored. So a repeat with the same `Idempotency-Key` is 409
        `conflict`. Nobody gives scopes that he does not have.
        """
        return await api_keys.create(request.user, actor(request), data, idempotency_key(request))

    @post("/keys/{key_id:uuid}/rotate", opt=needs(Scope.ADMIN) | ONCE)
    async def rotate_api_key(
        self,
        request: Caller,
        key_id: FromPath[UUID],
        api_keys: NamedDependency[ApiKeyService],
        data: JSONBody[RotateApiKey | None] = None,
    ) -> NewApiKey:
        """Rotate an API key

        Makes a key of the same name, owner, scopes, tier and expiry, shown this once. The old one stays good for
        `overlap_seconds`, so that its users can change over, and never longer than it would have been. A key that is
        revoked, has expired or was rotated before is 409 `conflict`.
        """
        overlap = (data or RotateApiKey()).overlap_seconds
        return await api_keys.rotate(request.user, actor(request), key_id, overlap, idempotency_key(request))

    @delete("/keys/{key_id:uuid}", opt=needs(Scope.ADMIN) | UNCONDITIONAL)
    async def revoke_api_key(
        self, request: Caller, key_id: FromPath[UUID], api_keys: NamedDependency[ApiKeyService]
    ) -> None:
        """Revoke an API key

        Every node refuses it within a second, and all tokens that were made from it. One that is revoked already
        stays so.
        """
        await api_keys.revoke(actor(request), key_id)

    @get("/audit-log", opt=needs(Scope.ADMIN))
    async def list_audit_log(
        self,
        request: Caller,
        audit: NamedDependency[AuditService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["created_at"]] = "created_at",
        sort_order: SortOrder = "desc",
        action: FromQuery[Action | None] = None,
        actor: FromQuery[str | None] = None,
        target_id: FromQuery[str | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[AuditPage]:
        """List the audit log

        Who did what to which credential, from which address, the newest first. Entries are never changed nor removed.
        """
        wanted = AuditFilter(
            action=action, actor=actor, target_id=target_id, created_after=created_after, created_before=created_before
        )
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await audit.list(request.user, wanted, page))

    @get("/rate-limits", opt=needs(Scope.ADMIN))
    async def list_rate_limit_overrides(
        self,
        request: Caller,
        overrides: NamedDependency[RateLimitOverrides],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["created_at"]] = "created_at",
        sort_order: SortOrder = "desc",
        user_id: FromQuery[str | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[RateLimitOverridePage]:
        """List rate limit overrides

        The principals whose limits are not those of their tier, also where that has expired.
        """
        wanted = RateLimitOverrideFilter(user_id=user_id, created_after=created_after, created_before=created_before)
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await overrides.list(request.user, wanted, page))

    @get("/rate-limits/{user_id:str}", opt=needs(Scope.ADMIN))
    async def get_principal_rate_limits(
        self,
        user_id: Subject,
        overrides: NamedDependency[RateLimitOverrides],
        tier: FromQuery[Tier] = Tier.AUTHENTICATED,
    ) -> PrincipalRateLimits:
        """Get the rate limits of a principal

        Every limit of a principal, by its subject, and what is left of it. `tier` is that of its credentials, which
        the server does not know without them; it does not count where an override names another one.
        """
        return await overrides.get(user_id, tier)

    @put("/rate-limits/{user_id:str}", opt=needs(Scope.ADMIN) | UNCONDITIONAL)
    async def override_rate_limits(
        self,
        request: Caller,
        user_id: Subject,
        data: JSONBody[OverrideRateLimits],
        overrides: NamedDependency[RateLimitOverrides],
    ) -> RateLimitOverride:
        """Override the rate limits of a principal

        From now on, and on every node within a second, it has another tier or limits of its own, until the override
        expires or is deleted; the one before is replaced. A limit that changes begins with nothing counted.
        """
        return await overrides.put(actor(request), user_id, data)

    @delete("/rate-limits/{user_id:str}", opt=needs(Scope.ADMIN) | UNCONDITIONAL)
    async def delete_rate_limit_override(
        self, request: Caller, user_id: Subject, overrides: NamedDependency[RateLimitOverrides]
    ) -> None:
        """Delete a rate limit override

        The principal has the limits of its tier again, on every node within a second.
        """
        await overrides.delete(actor(request), user_id)

    @get("/stats", opt=needs(Scope.ADMIN))
    async def get_stats(self, administration: NamedDependency[AdministrationService]) -> Stats:
        """Get statistics

        How much there is, of all owners and on all nodes. What is beyond 10,000 is estimated, and named in
        `approximate`: asking costs the same however much there is.
        """
        return await administration.stats()

    @get("/config", opt=needs(Scope.ADMIN))
    async def get_config(self, administration: NamedDependency[AdministrationService]) -> Configuration:
        """Get the configuration

        Every setting of the process that answers, with what is secret in it left out.
        """
        return administration.configuration()
