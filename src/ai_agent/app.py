"""The composition root: every room is put together here, and nowhere else."""

import contextlib
from collections.abc import AsyncIterator

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from ai_agent.api.admission import Admission
from ai_agent.api.answers import Answer
from ai_agent.api.body import BodyDecoder
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
from ai_agent.api.v1.deliveries import DeliveryController
from ai_agent.api.v1.execution_history import ExecutionHistoryController
from ai_agent.api.v1.executions import ExecutionController
from ai_agent.api.v1.health import HealthController
from ai_agent.api.v1.messages import MessageController
from ai_agent.api.v1.rate_limits import RateLimitController
from ai_agent.api.v1.sessions import SessionController
from ai_agent.api.v1.tools import ToolController
from ai_agent.execution.job_queue import JobQueue, LitestarJobQueue
from ai_agent.execution.local_model import LocalModel
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.prices import Prices
from ai_agent.execution.runs import Runs
from ai_agent.execution.webhook_post import WebhookPost
from ai_agent.execution.webhooks import Webhooks
from ai_agent.execution.worker import Worker
from ai_agent.observability.logging import configure_logging
from ai_agent.observability.tracing import traced
from ai_agent.realtime.announcements import Announcements
from ai_agent.realtime.publisher import Publisher
from ai_agent.realtime.sqlite_log import SqliteLog
from ai_agent.security.api_keys import REFRESH_TOKEN, TICKET, KeyHasher
from ai_agent.security.jwks import Jwks, fetcher
from ai_agent.security.jwt import Jwt
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import SecretBox
from ai_agent.security.secret_fields import SecretFields
from ai_agent.security.webhook_signatures import WebhookSigner
from ai_agent.services.agents import AgentService
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.approvals import ApprovalService
from ai_agent.services.audit import AuditService
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
from ai_agent.services.messages import MessageService
from ai_agent.services.paging import Pager
from ai_agent.services.rate_limits import RateLimitService
from ai_agent.services.sessions import SessionService
from ai_agent.services.tokens import Lifetimes, TokenService
from ai_agent.services.tools import ToolService
from ai_agent.settings import Algorithm, Auth, Environment, LogFormat, Settings, load_settings
from ai_agent.storage import migrations
from ai_agent.storage.database import Database
from ai_agent.storage.engine import create_database
from ai_agent.storage.keyset import CursorCodec
from ai_agent.storage.limiter import Limiter, MemoryLimiter
from ai_agent.storage.redis import connect
from ai_agent.storage.redis_limiter import RedisLimiter
from ai_agent.storage.resilient_limiter import ResilientLimiter
from ai_agent.storage.timed import TimedDatabase

RESOURCES = [
    SessionController,
    MessageController,
    AgentController,
    ExecutionController,
    ApprovalController,
    DeliveryController,
    ExecutionHistoryController,
    ToolController,
    RateLimitController,
    AdminController,
    AuthController,
    HealthController,
]


class _Server:
    """The rooms of one server, put together."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.database = _database(settings)
        hasher = KeyHasher(settings.secret, settings.secret_key_fallbacks)
        self._guard = guard = OutboundGuard(settings.outbound_networks)
        self._limiter = _limiter(settings)
        self.rate_limits = RateLimitService(settings, self._limiter)
        self._pager = Pager(self.database, CursorCodec(settings.secret))
        self._api_keys = ApiKeyService(self.database, hasher, settings.environment, self._pager)
        tickets = KeyHasher(settings.secret, settings.secret_key_fallbacks, TICKET)
        jwt = _jwt(settings, guard)
        self.identity = IdentityService(self.database, hasher, self._api_keys, tickets, jwt)
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
        self._log = SqliteLog(settings.directory / "events.db")
        self.housekeeping = Housekeeping(
            {
                "idempotency keys": self.idempotency.forget_expired,
                "tokens": self._tokens.forget_expired,
                "credential changes": self.identity.changes.forget_expired,
                "events": self._log.forget_expired,
            }
        )
        agent_secrets = SecretFields(SecretBox(settings.secret, settings.secret_key_fallbacks), "agents")
        self._publisher = Publisher(self.database, self._log)
        announcements = self._announcements = Announcements(self._publisher)
        self._streams = ExecutionStreams(self.database, self._log)
        self._queue = _queue(settings)
        self._signer = WebhookSigner(settings.secret, settings.secret_key_fallbacks)
        retry = settings.webhook_retry_seconds
        self._webhooks = Webhooks(self.database, self._signer, WebhookPost(guard), retry_seconds=retry)
        self._runs = Runs(self.database, self._publisher, self._queue, self._webhooks, settings)
        self._local_model = LocalModel()
        access = ModelAccess(settings, self._local_model, agent_secrets, guard, Prices.load(settings.model_prices))
        self._worker = Worker(settings, self._runs, self._queue, access)
        self._agents = AgentService(self.database, self._pager, announcements, agent_secrets, guard)

    def services(self) -> dict[str, Provide]:
        """What handlers may ask for, by the names of their parameters."""
        return {
            "sessions": given(SessionService(self.database, self._pager, self._queue, self._announcements)),
            "messages": given(MessageService(self.database, self._pager, self._announcements)),
            "agents": given(self._agents),
            "executions": given(
                ExecutionService(
                    self.database, self._streams, self._announcements, self._queue, self._runs, self._guard
                )
            ),
            "deliveries": given(DeliveryService(self.database, self._pager, self._webhooks, self._signer)),
            "history": given(ExecutionHistory(self.database, self._pager, self._streams)),
            "execution_queue": given(ExecutionQueue(self.database)),
            "streams": given(self._streams),
            "approvals": given(ApprovalService(self.database, self._publisher, self._runs)),
            "tools": given(ToolService(self.database, self._pager)),
            "rate_limits": given(self.rate_limits),
            "api_keys": given(self._api_keys),
            "audit": given(AuditService(self._pager)),
            "tokens": given(self._tokens),
            "health": given(self.health),
        }

    def drain(self) -> None:
        """Begins to stop: not ready any more, streams end, no new run begins."""
        self.health.draining = True
        self._streams.drain()
        self._worker.drain()

    @contextlib.asynccontextmanager
    async def serving(self, *, worker: bool) -> AsyncIterator[None]:
        """All that answers requests, and the worker unless others do its part."""
        async with self._ground(), contextlib.AsyncExitStack() as ends:
            for room in (self._api_keys, self._limiter, self.identity):
                ends.push_async_callback(room.close)
            await self._limiter.start()
            await first_start(self.settings, self._api_keys, self._agents)
            await self.identity.start()
            async with self._working() if worker else contextlib.nullcontext():
                yield
                self.drain()

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The worker without the API."""
        async with self._ground(), self._working():
            yield
            self.drain()

    @contextlib.asynccontextmanager
    async def _ground(self) -> AsyncIterator[None]:
        """What each process has open. What was begun is ended, in the opposite order, also when the start fails."""
        async with contextlib.AsyncExitStack() as ends:
            for room in (self.database, self._log, self._publisher, self._queue, self.housekeeping):
                ends.push_async_callback(room.close)
            await self.database.open()
            await self._log.open()
            await migrations.prepare(self.database, self.settings.database)
            self._publisher.start()
            self.housekeeping.start()
            yield

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as ends:
            for room in (self._local_model, self._webhooks, self._worker):
                ends.push_async_callback(room.close)
            self._webhooks.start()
            await self._worker.start()
            yield


def _database(settings: Settings) -> Database:
    database = create_database(
        settings.database, pool_size=settings.db_pool_size, statement_timeout=settings.db_statement_timeout
    )
    return TimedDatabase(database) if settings.environment is Environment.DEVELOPMENT else database


def _queue(settings: Settings) -> JobQueue:
    """Redis where processes share a database. Several deployments may share a Redis: each has its database's name."""
    concurrency, lease = settings.execution_concurrency, settings.execution_lease_seconds
    if settings.redis_url is None or not settings.shares_runs:
        return LitestarJobQueue(concurrency=concurrency)
    redis = connect(settings.redis_url, answer_seconds=1, reconnect=True)
    name = settings.database.rpartition("/")[2].partition("?")[0]
    return LitestarJobQueue(redis, concurrency=concurrency, lease_seconds=lease, name=name)


def _limiter(settings: Settings) -> Limiter:
    strategy = settings.rate_limit_strategy
    if settings.redis_url is None:
        return MemoryLimiter(strategy)
    return ResilientLimiter(RedisLimiter(connect(settings.redis_url), strategy), strategy)


def _jwt(settings: Settings, guard: OutboundGuard) -> Jwt:
    jwks, algorithms = None, settings.jwt_algorithms
    if settings.jwt_jwks_url is not None and set(algorithms) != {Algorithm.HS256}:
        jwks = Jwks(fetcher(settings.jwt_jwks_url, guard), algorithms)
    # The secret key may be a new one, with old ones beside it; a secret of JWTs' own is shared with who makes them.
    secrets = [settings.jwt_secret] if settings.jwt_secret else [settings.secret, *settings.secret_key_fallbacks]
    return Jwt(secrets, algorithms, jwks, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


class WorkerProcess:
    """The worker without an API, for a process of its own."""

    def __init__(self, settings: Settings):
        server = _Server(settings)
        self.running, self.drain = server.working, server.drain


def create_app(settings: Settings, *, worker: bool = True) -> Litestar:
    """The server as an ASGI application; its lifespan opens and closes all it needs."""
    server = _Server(settings)
    metrics = [get_metrics] if settings.metrics_enabled else []
    app = Litestar(
        route_handlers=[Router("/api/v1", route_handlers=RESOURCES), HealthController, DocumentController, *metrics],
        middleware=[
            Admission(server.identity, server.rate_limits, required=settings.auth is Auth.REQUIRED),
            Idempotency(server.idempotency),
        ],
        dto=BodyDecoder,
        return_dto=None,
        request_class=Caller,
        response_class=Answer,
        exception_handlers={Exception: answer_error, HTTPException: answer_error},
        dependencies=server.services(),
        lifespan=[lambda _: server.serving(worker=worker)],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,
        logging_config=None,
        state=State({"drain": server.drain}),
    )
    require_declared_scopes(app)
    declare_parameters(app)
    declare_rate_limits(app, server.rate_limits)
    timing = settings.environment is Environment.DEVELOPMENT
    app.asgi_handler = traced(OuterWrapper(app.asgi_handler, TrustedProxies(settings.proxy_networks), timing=timing))
    return app


def from_environment() -> Litestar:
    """For servers that want a factory: `uvicorn --factory ai_agent.app:from_environment`."""
    settings = load_settings()
    configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
    return create_app(settings)
