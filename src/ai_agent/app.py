"""The composition root: every room is put together here, and nowhere else."""

import contextlib
from collections.abc import AsyncIterator

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from ai_agent.api.answers import Answer
from ai_agent.api.body import BodyDecoder
from ai_agent.api.dependencies import Caller, given
from ai_agent.api.documents import DocumentController
from ai_agent.api.errors import answer_error
from ai_agent.api.guards import require_declared_scopes
from ai_agent.api.idempotency import Idempotency
from ai_agent.api.middleware import Authentication, OuterWrapper
from ai_agent.api.parameters import StrictParameters, declare_parameters
from ai_agent.api.v1.agents import AgentController
from ai_agent.api.v1.executions import ExecutionController
from ai_agent.api.v1.health import HealthController
from ai_agent.api.v1.messages import MessageController
from ai_agent.api.v1.sessions import SessionController
from ai_agent.execution.job_queue import LitestarJobQueue
from ai_agent.execution.local_model import LocalModel
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.runs import Runs
from ai_agent.execution.worker import Worker
from ai_agent.observability.logging import configure_logging
from ai_agent.observability.tracing import traced
from ai_agent.realtime.execution_log import ExecutionLog
from ai_agent.security.api_keys import KeyHasher
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import SecretBox
from ai_agent.security.secret_fields import SecretFields
from ai_agent.services.agents import AgentService
from ai_agent.services.executions import ExecutionService
from ai_agent.services.first_start import first_start
from ai_agent.services.health import HealthService
from ai_agent.services.housekeeping import Housekeeping
from ai_agent.services.idempotency import IdempotencyService
from ai_agent.services.identity import IdentityService
from ai_agent.services.messages import MessageService
from ai_agent.services.paging import Pager
from ai_agent.services.sessions import SessionService
from ai_agent.settings import Auth, Environment, LogFormat, Settings, load_settings
from ai_agent.storage import migrations
from ai_agent.storage.engine import create_database
from ai_agent.storage.keyset import CursorCodec
from ai_agent.storage.timed import TimedDatabase


def create_app(settings: Settings) -> Litestar:
    """The server as an ASGI application; its lifespan opens and closes all it needs."""
    database = create_database(
        settings.database, pool_size=settings.db_pool_size, statement_timeout=settings.db_statement_timeout
    )
    development = settings.environment is Environment.DEVELOPMENT
    if development:
        database = TimedDatabase(database)
    guard = OutboundGuard(settings.outbound_networks)
    agent_secrets = SecretFields(SecretBox(settings.secret, settings.secret_key_fallbacks), "agents")
    hasher = KeyHasher(settings.secret, settings.secret_key_fallbacks)
    identity = IdentityService(database, hasher, settings.environment)
    pager = Pager(database, CursorCodec(settings.secret))
    log = ExecutionLog(database)
    runs = Runs(
        database, log, lease_seconds=settings.execution_lease_seconds, max_attempts=settings.execution_max_attempts
    )
    queue = LitestarJobQueue(concurrency=settings.execution_concurrency)
    local_model = LocalModel()
    worker = Worker(settings, runs, queue, ModelAccess(settings, local_model, agent_secrets, guard))
    agents = AgentService(database, pager, agent_secrets, guard)
    idempotency = IdempotencyService(database)
    housekeeping = Housekeeping({"idempotency keys": idempotency.forget_expired})
    health = HealthService(database)

    def drain() -> None:
        """Begins to stop: not ready any more, streams end, no new run begins."""
        health.draining = True
        log.drain()
        worker.drain()

    @contextlib.asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await database.open()
        try:
            await migrations.prepare(database, settings.database)
            await first_start(settings, identity, agents)
            await worker.start()
            housekeeping.start()
            yield
            drain()
            await worker.close()
        finally:
            await housekeeping.close()
            await local_model.close()
            await database.close()

    api = [SessionController, MessageController, AgentController, ExecutionController, HealthController]
    app = Litestar(
        route_handlers=[Router("/api/v1", route_handlers=api), HealthController, DocumentController],
        middleware=[
            Authentication(identity, required=settings.auth is Auth.REQUIRED),
            Idempotency(idempotency),
            StrictParameters(),
        ],
        dto=BodyDecoder,
        return_dto=None,
        request_class=Caller,
        response_class=Answer,
        exception_handlers={Exception: answer_error, HTTPException: answer_error},
        dependencies={
            "sessions": given(SessionService(database, pager, queue)),
            "messages": given(MessageService(database, pager)),
            "agents": given(agents),
            "executions": given(ExecutionService(database, log, queue, runs)),
            "health": given(health),
        },
        lifespan=[lifespan],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,
        logging_config=None,
        state=State({"drain": drain}),
    )
    require_declared_scopes(app)
    declare_parameters(app)
    app.asgi_handler = traced(OuterWrapper(app.asgi_handler, timing=development))
    return app


def from_environment() -> Litestar:
    """For servers that want a factory: `uvicorn --factory ai_agent.app:from_environment`."""
    settings = load_settings()
    configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
    return create_app(settings)
