"""The composition root: every room is put together here, and nowhere else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from ai_agent import backends
from ai_agent.api.admission import Admission
from ai_agent.api.answers import Answer
from ai_agent.api.body import BodyDecoder
from ai_agent.api.cors import Cors
from ai_agent.api.dependencies import Caller, given
from ai_agent.api.documents import DocumentController
from ai_agent.api.errors import answer_error
from ai_agent.api.guards import require_declared_scopes
from ai_agent.api.idempotency import Idempotency
from ai_agent.api.metrics import get_metrics
from ai_agent.api.middleware import OuterWrapper
from ai_agent.api.parameters import declare_parameters
from ai_agent.api.proxies import TrustedProxies
from ai_agent.api.rate_limits import declare_rate_limits
from ai_agent.api.v1.admin import AdminController
from ai_agent.api.v1.agents import AgentController
from ai_agent.api.v1.approvals import ApprovalController
from ai_agent.api.v1.auth import AuthController
from ai_agent.api.v1.connections import ConnectionController
from ai_agent.api.v1.deliveries import DeliveryController
from ai_agent.api.v1.execution_history import ExecutionHistoryController
from ai_agent.api.v1.executions import ExecutionController
from ai_agent.api.v1.health import HealthController, ServicesController
from ai_agent.api.v1.mcp_servers import McpServerController
from ai_agent.api.v1.messages import MessageController
from ai_agent.api.v1.notifications import NotificationController
from ai_agent.api.v1.queues import QueueController
from ai_agent.api.v1.rate_limits import RateLimitController
from ai_agent.api.v1.sessions import SessionController
from ai_agent.api.v1.tools import ToolController
from ai_agent.api.websocket.auth import Authenticator
from ai_agent.api.websocket.calls import Calls
from ai_agent.api.websocket.channels import Channels
from ai_agent.api.websocket.connection import Rooms
from ai_agent.api.websocket.connection_manager import ConnectionManager
from ai_agent.api.websocket.origins import Origins
from ai_agent.api.websocket.routes import ROUTES
from ai_agent.domain.tools import ToolKind
from ai_agent.execution.builtin_tools import BuiltinTools
from ai_agent.execution.http_tools import HttpTools
from ai_agent.execution.local_model import LocalModel
from ai_agent.execution.mcp.commands import load_commands
from ai_agent.execution.mcp.health import McpHealth
from ai_agent.execution.mcp.links import Links
from ai_agent.execution.mcp.pool import McpPool
from ai_agent.execution.mcp.tools import McpTools
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.prices import Prices
from ai_agent.execution.runs import Runs
from ai_agent.execution.tools import Toolbox
from ai_agent.execution.webhook_post import WebhookPost
from ai_agent.execution.webhooks import Webhooks
from ai_agent.execution.worker import Worker
from ai_agent.observability import model_metrics  # noqa: F401  # Its families are told before the first run.
from ai_agent.observability.logging import configure_logging
from ai_agent.observability.metrics import sampled
from ai_agent.observability.tool_metrics import breakers_are
from ai_agent.observability.tracing import flush, start_tracing, traced_app
from ai_agent.realtime.announcements import Announcements
from ai_agent.realtime.connection_registry import ConnectionRegistry
from ai_agent.realtime.inbox import Inbox
from ai_agent.realtime.log_backend import LogBackend
from ai_agent.realtime.plugin import RealtimePlugin
from ai_agent.realtime.presence import Presence
from ai_agent.realtime.publisher import Publisher
from ai_agent.realtime.socket_orders import SocketOrders
from ai_agent.security.api_keys import REFRESH_TOKEN, TICKET, KeyHasher
from ai_agent.security.jwks import Jwks, fetcher
from ai_agent.security.jwt import Jwt
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import SecretBox
from ai_agent.security.secret_fields import SecretFields
from ai_agent.security.webhook_signatures import WebhookSigner
from ai_agent.services.administration import AdministrationService
from ai_agent.services.agents import AgentService
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.approvals import ApprovalService
from ai_agent.services.audit import AuditService
from ai_agent.services.channel_access import ChannelAccess
from ai_agent.services.connections import ConnectionService
from ai_agent.services.credentials import Credentials
from ai_agent.services.deliveries import DeliveryService
from ai_agent.services.execution_history import ExecutionHistory
from ai_agent.services.execution_queue import ExecutionQueue
from ai_agent.services.execution_streams import ExecutionStreams
from ai_agent.services.executions import ExecutionService
from ai_agent.services.first_start import first_start
from ai_agent.services.health import HealthService
from ai_agent.services.housekeeping import Housekeeping
from ai_agent.services.idempotency import IdempotencyService
from ai_agent.services.identity import IdentityService
from ai_agent.services.mcp_servers import McpServerService
from ai_agent.services.messages import MessageService
from ai_agent.services.metrics import MetricsService
from ai_agent.services.notifications import NotificationService
from ai_agent.services.outbox_lag import OutboxLag
from ai_agent.services.paging import Pager
from ai_agent.services.queues import QueueService
from ai_agent.services.rate_limit_overrides import RateLimitOverrides
from ai_agent.services.rate_limits import RateLimitService
from ai_agent.services.service_checks import ServiceChecks
from ai_agent.services.sessions import SessionService
from ai_agent.services.tokens import Lifetimes, TokenService
from ai_agent.services.tools import ToolService
from ai_agent.settings import Algorithm, Auth, Environment, LogFormat, Settings, load_settings
from ai_agent.signals import drained_on_signal
from ai_agent.storage import migrations
from ai_agent.storage.keyset import CursorCodec

RESOURCES = [
    SessionController,
    MessageController,
    AgentController,
    ExecutionController,
    ApprovalController,
    DeliveryController,
    ExecutionHistoryController,
    ToolController,
    McpServerController,
    RateLimitController,
    AdminController,
    ConnectionController,
    NotificationController,
    QueueController,
    AuthController,
    HealthController,
    ServicesController,
]


class _Server:
    """The rooms of one server, put together."""

    def __init__(self, settings: Settings):
        start_tracing()
        self.settings = settings
        self.database = backends.database_of(settings)
        hasher = KeyHasher(settings.secret, settings.secret_key_fallbacks)
        self._guard = guard = OutboundGuard(settings.outbound_networks)
        self._limiter = backends.limiter_of(settings)
        self.rate_limits = RateLimitService(settings, self._limiter)
        self._pager = Pager(self.database, CursorCodec(settings.secret))
        self._api_keys = ApiKeyService(self.database, hasher, settings.environment, self._pager)
        tickets = KeyHasher(settings.secret, settings.secret_key_fallbacks, TICKET)
        jwt = _jwt(settings, guard)
        self.identity = IdentityService(self.database, hasher, self._api_keys, tickets, jwt)
        self._overrides = RateLimitOverrides(self.database, self._pager, self.rate_limits)
        self.identity.listeners.append(self._overrides.changed)
        self.credentials = Credentials(self.identity, self.rate_limits)
        self._tokens = TokenService(
            self.database,
            jwt,
            KeyHasher(settings.secret, settings.secret_key_fallbacks, REFRESH_TOKEN),
            tickets,
            settings.environment,
            Lifetimes(settings.token_seconds, settings.refresh_token_seconds),
        )
        self.idempotency = IdempotencyService(self.database)
        self.health = HealthService(self.database, self._limiter)
        self._log = backends.log_of(settings)
        wait, most = settings.ws_ack_wait_seconds, settings.ws_max_deliver
        inbox = self._inbox = Inbox(self.database, self._log, try_seconds=wait, most_tries=most)
        self._connections = ConnectionRegistry(backends.connections_of(settings))
        self._presence = Presence(backends.presence_of(settings), self._log)
        self._orders = SocketOrders(self._log, shared=settings.shares_runs)
        self.housekeeping = Housekeeping(
            {
                "idempotency keys": self.idempotency.forget_expired,
                "tokens": self._tokens.forget_expired,
                "credential changes": self.identity.changes.forget_expired,
                "events": self._log.forget_expired,
                "queues": inbox.forget_old,
            }
        )
        box = SecretBox(settings.secret, settings.secret_key_fallbacks)
        agent_secrets, mcp_secrets = SecretFields(box, "agents"), SecretFields(box, "mcp_servers")
        self.channels = RealtimePlugin(LogBackend(self._log), arbitrary_channels_allowed=True)
        self._publisher = Publisher(self.database, self._log, inbox)
        announcements = self._announcements = Announcements(self._publisher)
        self._streams = ExecutionStreams(self.database, self._log)
        self._queue = backends.queue_of(settings)
        self._signer = WebhookSigner(settings.secret, settings.secret_key_fallbacks)
        retry = settings.webhook_retry_seconds
        self._webhooks = Webhooks(self.database, self._signer, WebhookPost(guard), retry_seconds=retry)
        self._runs = Runs(self.database, self._publisher, self._queue, self._webhooks, settings)
        self._local_model = LocalModel()
        access = ModelAccess(settings, self._local_model, agent_secrets, guard, Prices.load(settings.model_prices))
        links = Links(guard, mcp_secrets, load_commands(settings.mcp_stdio_commands))
        pool = self._mcp_pool = McpPool(links.connect)
        self._mcp_health = McpHealth(self.database, pool, guard, announcements)
        self._mcp_servers = McpServerService(
            self.database, self._pager, announcements, mcp_secrets, guard, links, pool, self._mcp_health
        )
        self._tool_secrets = SecretFields(box, "tools")
        self._toolbox = Toolbox(
            {
                ToolKind.BUILTIN: BuiltinTools(self.database),
                ToolKind.HTTP: HttpTools(guard, self._tool_secrets),
                ToolKind.MCP: McpTools(self.database, pool),
            }
        )
        self._worker = Worker(settings, self._runs, self._queue, access, self._toolbox)
        self._service_checks = ServiceChecks(
            settings, self.database, self.health, access.breakers, self._toolbox.breakers
        )
        self._agents = AgentService(self.database, self._pager, announcements, agent_secrets, guard)
        self._messages = MessageService(self.database, self._pager, announcements)
        self._executions = ExecutionService(
            self.database, self._streams, announcements, self._queue, self._runs, self._guard
        )
        self._approvals = ApprovalService(self.database, self._publisher, announcements, self._runs, self._toolbox)
        required, origins = settings.auth is Auth.REQUIRED, Origins(settings.origins)
        self._authenticator = Authenticator(self.identity, self.credentials, origins, required=required)
        self._manager = ConnectionManager(settings, self.identity, self._authenticator, self._connections, self._orders)
        self._sockets = self._socket_rooms()
        self._queues = QueueService(self.database, self._pager, self._inbox)
        looks = ExecutionQueue(self.database), OutboxLag(self.database), self._queues, self._mcp_servers
        self._metrics = MetricsService(self.database, [each.look for each in looks])
        sampled("breakers", lambda: breakers_are(access.breakers.open(), self._toolbox.breakers.open()))

    def _socket_rooms(self) -> Rooms:
        return Rooms(
            settings=self.settings,
            authenticator=self._authenticator,
            manager=self._manager,
            channels=Channels(ChannelAccess(self.database), self._log, self._streams, self._inbox, self._presence),
            calls=Calls(self._executions, self._approvals, self._messages, self.rate_limits),
        )

    def services(self) -> dict[str, Provide]:
        """What handlers may ask for, by the names of their parameters."""
        return {
            "sessions": given(SessionService(self.database, self._pager, self._queue, self._announcements)),
            "messages": given(self._messages),
            "agents": given(self._agents),
            "executions": given(self._executions),
            "deliveries": given(DeliveryService(self.database, self._pager, self._webhooks, self._signer)),
            "history": given(ExecutionHistory(self.database, self._pager, self._streams)),
            "metrics": given(self._metrics),
            "notifications": given(NotificationService(self.database, self._publisher)),
            "queues": given(self._queues),
            "streams": given(self._streams),
            "approvals": given(self._approvals),
            "mcp_servers": given(self._mcp_servers),
            "tools": given(ToolService(self.database, self._pager, self._tool_secrets, self._guard, self._toolbox)),
            "rate_limits": given(self.rate_limits),
            "overrides": given(self._overrides),
            "administration": given(AdministrationService(self.settings, self.database, self._connections)),
            "api_keys": given(self._api_keys),
            "audit": given(AuditService(self._pager)),
            "connections": given(ConnectionService(self.database, self._pager, self._connections, self._orders)),
            "tokens": given(self._tokens),
            "health": given(self.health),
            "service_checks": given(self._service_checks),
            "sockets": given(self._sockets),
        }

    async def _drain(self) -> None:
        """Before a stop: not ready any more; behind the delay no run begins, and all who listen go, streams last."""
        self.health.draining = True
        await asyncio.sleep(self.settings.drain_delay_seconds)
        await self._drain_worker()
        await self._manager.drain()
        self._streams.drain()

    async def _drain_worker(self) -> None:
        self.health.draining = True
        self._worker.drain()

    def grace(self) -> float:
        """Seconds that are left of a drain for what has not ended."""
        return self._worker.grace()

    async def prepare(self) -> None:
        """What is done once before several processes serve. Raises what would keep each of them from it."""
        async with contextlib.AsyncExitStack() as ends:
            for room in (self.database, self._api_keys):
                ends.push_async_callback(room.close)
            await self.database.open()
            await migrations.prepare(self.database, self.settings.database)
            await first_start(self.settings, self._api_keys, self._agents)

    @contextlib.asynccontextmanager
    async def serving(self, *, worker: bool, prepared: bool) -> AsyncIterator[None]:
        """All that answers requests, and the worker unless others do its part."""
        async with self._ground(self._drain), contextlib.AsyncExitStack() as ends:
            nodes = self._connections, self._orders, self._presence, self._manager
            for room in (self._api_keys, self.identity, self._overrides, *nodes):
                ends.push_async_callback(room.close)
            await self._limiter.start()
            await self._orders.start()
            self._presence.start()
            self._manager.start()
            if not prepared:
                await first_start(self.settings, self._api_keys, self._agents)
            await self.identity.start()
            await self._overrides.start()
            async with self._working() if worker else contextlib.nullcontext():
                yield

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The worker without the API."""
        async with self._ground(self._drain_worker), self._working():
            yield

    @contextlib.asynccontextmanager
    async def _ground(self, drain: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """What each process has open. What was begun is ended, in the opposite order, also when the start fails."""
        async with contextlib.AsyncExitStack() as ends:
            ends.push_async_callback(flush)
            ends.enter_context(drained_on_signal(drain))
            ground = self.database, self._log, self._publisher, self._queue, self.housekeeping, self._mcp_pool
            for room in (*ground, self._metrics, self._limiter, self.health):
                ends.push_async_callback(room.close)
            await self.database.open()
            await self._log.open()
            await migrations.prepare(self.database, self.settings.database)
            self._publisher.start()
            self.housekeeping.start()
            self._metrics.start()
            yield

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as ends:
            for room in (self._local_model, self._webhooks, self._worker, self._mcp_health):
                ends.push_async_callback(room.close)
            self._webhooks.start()
            self._mcp_health.start()
            await self._worker.start()
            yield


def _jwt(settings: Settings, guard: OutboundGuard) -> Jwt:
    jwks, algorithms = None, settings.jwt_algorithms
    if settings.jwt_jwks_url is not None and set(algorithms) != {Algorithm.HS256}:
        jwks = Jwks(fetcher(settings.jwt_jwks_url, guard), algorithms)
    # The secret key may be a new one, with old ones beside it; a secret of JWTs' own is shared with who makes them.
    secrets = [settings.jwt_secret] if settings.jwt_secret else [settings.secret, *settings.secret_key_fallbacks]
    return Jwt(secrets, algorithms, jwks, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def create_worker(settings: Settings) -> Litestar:
    """The worker without the API: an application that only tells its health and metrics."""
    server = _Server(settings)
    return _application(server, [], lambda _: server.working())


def create_app(settings: Settings, *, worker: bool = True, prepared: bool = False) -> Litestar:
    """The server as an ASGI application; its lifespan opens and closes all it needs.

    `prepared`: somebody else has done what a first start does.
    """
    server = _Server(settings)
    app = _application(
        server,
        [Router("/api/v1", route_handlers=RESOURCES), DocumentController, *ROUTES],
        lambda _: server.serving(worker=worker, prepared=prepared),
        middleware=[
            Admission(server.credentials, server.rate_limits, required=settings.auth is Auth.REQUIRED),
            Idempotency(server.idempotency),
        ],
        plugins=[server.channels],
    )
    declare_parameters(app)
    declare_rate_limits(app, server.rate_limits)
    return app


def _application(server: _Server, handlers: list[Any], lifespan: Any, **more: Any) -> Litestar:
    settings = server.settings
    metrics = [get_metrics] if settings.metrics_enabled else []
    app = Litestar(
        route_handlers=[HealthController, *metrics, *handlers],
        dto=BodyDecoder,
        return_dto=None,
        request_class=Caller,
        response_class=Answer,
        exception_handlers={Exception: answer_error, HTTPException: answer_error},
        dependencies=server.services(),
        lifespan=[lifespan],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,
        logging_config=None,
        state=State({"grace": server.grace, "prepare": server.prepare}),
        **more,
    )
    require_declared_scopes(app)
    timing = settings.environment is Environment.DEVELOPMENT
    proxies = TrustedProxies(settings.proxy_networks)
    cors = Cors(settings.cors) if settings.cors_origins else None
    outer = OuterWrapper(app.asgi_handler, proxies, lambda: server.health.draining, timing=timing, cors=cors)
    app.asgi_handler = traced_app(outer)
    return app


def from_environment() -> Litestar:
    """For servers that want a factory: `uvicorn --factory ai_agent.app:from_environment`."""
    settings = load_settings()
    configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
    return create_app(settings)
