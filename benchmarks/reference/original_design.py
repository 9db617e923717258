"""The original design: FastAPI, pydantic, SQLAlchemy's ORM, slowapi on Redis, three BaseHTTPMiddleware, JWT."""
# ruff: noqa: ARG001  # slowapi finds `request` and `response` by their names.

import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import jwt
import orjson
import structlog
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from sqlalchemy import DateTime, Integer, String, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.middleware.base import BaseHTTPMiddleware

from benchmarks.reference.settings import DATABASE_URL, JWT_SECRET, LIMIT_PER_MINUTE, POOL_SIZE, REDIS_URL

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(orjson.dumps),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(20),
    logger_factory=structlog.BytesLoggerFactory(file=open(os.devnull, "ab")),  # noqa: SIM115  # open as long as the process
    cache_logger_on_first_use=True,
)
log = structlog.get_logger()

asyncpg_url = DATABASE_URL.replace("postgresql://", "postgresql+asyncpg://")
engine = create_async_engine(asyncpg_url, pool_size=POOL_SIZE, max_overflow=0)
maker = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


def now() -> datetime:
    return datetime.now(UTC)


class SessionModel(Base):
    __tablename__ = "sessions"
    id: Mapped[uuid.UUID] = mapped_column(PGUUID(as_uuid=True), primary_key=True, default=uuid.uuid4)
    user_id: Mapped[str] = mapped_column(String)
    title: Mapped[str] = mapped_column(String)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, default=dict)
    message_count: Mapped[int] = mapped_column(Integer, default=0)
    last_activity: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class MessageModel(Base):
    __tablename__ = "messages"
    id: Mapped[uuid.UUID] = mapped_column(PGUUID(as_uuid=True), primary_key=True, default=uuid.uuid4)
    user_id: Mapped[str] = mapped_column(String)
    session_id: Mapped[uuid.UUID] = mapped_column(PGUUID(as_uuid=True))
    role: Mapped[str] = mapped_column(String)
    content: Mapped[str] = mapped_column(String)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, default=dict)
    tool_calls: Mapped[list[Any]] = mapped_column(JSONB, default=list)
    parent_message_id: Mapped[uuid.UUID | None] = mapped_column(PGUUID(as_uuid=True))
    agent_id: Mapped[uuid.UUID | None] = mapped_column(PGUUID(as_uuid=True))
    execution_id: Mapped[uuid.UUID | None] = mapped_column(PGUUID(as_uuid=True))
    position: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class MessageOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: uuid.UUID
    session_id: uuid.UUID
    role: str
    content: str
    metadata: dict[str, Any] = Field(validation_alias="metadata_")
    tool_calls: list[Any]
    parent_message_id: uuid.UUID | None
    agent_id: uuid.UUID | None
    execution_id: uuid.UUID | None
    position: int
    created_at: datetime
    updated_at: datetime


class MessagePage(BaseModel):
    items: list[MessageOut]


class SessionOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: uuid.UUID
    user_id: str
    title: str
    metadata: dict[str, Any] = Field(validation_alias="metadata_")
    message_count: int
    last_activity: datetime
    created_at: datetime
    updated_at: datetime


class Page(BaseModel):
    items: list[SessionOut]


class SessionIn(BaseModel):
    title: str
    metadata: dict[str, Any] = {}


class CorrelationIdMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        correlation_id = request.headers.get("x-correlation-id") or uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(correlation_id=correlation_id)
        response = await call_next(request)
        response.headers["x-correlation-id"] = correlation_id
        return response


class RequestLogMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        elapsed = round((time.perf_counter() - start) * 1e3, 3)
        path, status = request.url.path, response.status_code
        log.info("request", method=request.method, path=path, status=status, ms=elapsed)
        return response


class SecurityHeadersMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["x-frame-options"] = "DENY"
        return response


def user_key(request: Request) -> str:
    return request.headers.get("authorization", "")[-24:]


limiter = Limiter(key_func=user_key, storage_uri=REDIS_URL, headers_enabled=True)
limit = limiter.limit(f"{LIMIT_PER_MINUTE}/minute")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan, openapi_url=None)
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
app.add_middleware(SecurityHeadersMiddleware)
app.add_middleware(RequestLogMiddleware)
app.add_middleware(CorrelationIdMiddleware)
bearer = HTTPBearer()


async def current_user(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> str:
    try:
        return jwt.decode(credentials.credentials, JWT_SECRET, algorithms=["HS256"])["sub"]
    except jwt.PyJWTError as error:
        raise HTTPException(401) from error


async def database() -> AsyncIterator[AsyncSession]:
    async with maker() as session:
        yield session


User = Annotated[str, Depends(current_user)]
Database = Annotated[AsyncSession, Depends(database)]


@app.get("/sessions/{session_id}", response_model=SessionOut)
@limit
async def get_one(request: Request, response: Response, session_id: uuid.UUID, user: User, db: Database) -> Any:
    mine = select(SessionModel).where(SessionModel.id == session_id, SessionModel.user_id == user)
    found = (await db.execute(mine)).scalar_one_or_none()
    if found is None:
        raise HTTPException(404)
    return found


@app.get("/sessions", response_model=Page)
@limit
async def get_many(
    request: Request, response: Response, before: datetime, before_id: uuid.UUID, user: User, db: Database
) -> Any:
    keys = tuple_(SessionModel.last_activity, SessionModel.id)
    mine = select(SessionModel).where(SessionModel.user_id == user, keys < (before, before_id))
    page = mine.order_by(SessionModel.last_activity.desc(), SessionModel.id.desc()).limit(20)
    return {"items": (await db.execute(page)).scalars().all()}


@app.get("/sessions/{session_id}/messages", response_model=MessagePage)
@limit
async def get_messages(request: Request, response: Response, session_id: uuid.UUID, user: User, db: Database) -> Any:
    mine = select(MessageModel).where(MessageModel.session_id == session_id, MessageModel.user_id == user)
    page = mine.order_by(MessageModel.position, MessageModel.id).limit(20)
    return {"items": (await db.execute(page)).scalars().all()}


@app.post("/sessions", response_model=SessionOut, status_code=201)
@limit
async def create(request: Request, response: Response, data: SessionIn, user: User, db: Database) -> Any:
    session = SessionModel(user_id=user, title=data.title, metadata_=data.metadata)
    db.add(session)
    await db.commit()
    await db.refresh(session)
    return session
