"""Every setting, once: its name, its bounds, what it is for. `.env.example` is written from here."""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints
from urllib.parse import urlsplit

import dotenv
import msgspec
import platformdirs
from msgspec import Meta

from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.origins import Origin, parse_origin
from ai_agent.domain.rate_limits import Strategy

PREFIX = "AI_AGENT_"
SECRET_LENGTH = 32
MAX_TOKEN_SECONDS = 3600
"""So long the end of a credential is told to nodes that remember a token made from it (migration 0009)."""
CLIENT_VARIABLES = {"AI_AGENT_URL", "AI_AGENT_API_KEY"}
"""Where `chat` and the other clients find a server."""


Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Auth(StrEnum):
    REQUIRED = "required"
    DISABLED = "disabled"


class Algorithm(StrEnum):
    """How a JWT is signed: HS256 with a shared secret, the others with keys of a JWKS."""

    HS256 = "HS256"
    RS256 = "RS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """Read from the environment and `.env`, prefix `AI_AGENT_`; providers' keys under their own well-known names."""

    environment: Annotated[
        Environment, Meta(description="`production` refuses to start with what is only good enough at home.")
    ] = Environment.DEVELOPMENT
    data_dir: Annotated[
        Path | None,
        Meta(description="Where the embedded database and generated keys live. Default: the user's data directory."),
    ] = None
    database_url: Annotated[
        str | None, Meta(description="postgresql://user:password@host/database. Default: SQLite in the data directory.")
    ] = None
    db_pool_size: Annotated[int, Meta(ge=1, le=1000, description="Connections to PostgreSQL of one process.")] = 10
    db_statement_timeout: Annotated[Seconds, Meta(description="Seconds one statement may take.")] = 2.0
    secret_key: Annotated[
        Annotated[str, Meta(min_length=SECRET_LENGTH)] | None,
        Meta(description="At least 32 characters; signs and hashes. Generated in development, required in production."),
    ] = None
    secret_key_fallbacks: Annotated[
        tuple[Annotated[str, Meta(min_length=SECRET_LENGTH)], ...],
        Meta(description="Older secret keys, separated by commas: they open and verify what was made under them."),
    ] = ()
    auth: Annotated[Auth, Meta(description="`disabled` is allowed on loopback only.")] = Auth.REQUIRED
    bootstrap_api_key: Annotated[
        str | None, Meta(description="An admin key made at start when absent. `ai-agent keys generate` makes one.")
    ] = None
    redis_url: Annotated[
        str | None,
        Meta(
            description="redis://:password@host:6379/0: nodes count rate limits and run agents together. Default: none."
        ),
    ] = None
    rate_limit_enabled: Annotated[
        bool, Meta(description="`false` lets everybody do everything as often as they like, also try credentials.")
    ] = True
    rate_limit_strategy: Annotated[
        Strategy,
        Meta(
            description="`moving-window` counts the last minute, `fixed-window` whole minutes from the first request."
        ),
    ] = Strategy.MOVING_WINDOW
    rate_limit_tier_default: Annotated[
        str, Meta(description="All requests of an address without credentials, or of a key of this tier.")
    ] = "100/minute"
    rate_limit_tier_authenticated: Annotated[str, Meta(description="All requests of one owner.")] = "1000/minute"
    rate_limit_tier_premium: Annotated[str, Meta(description="All requests of one owner of this tier.")] = "5000/minute"
    rate_limit_multiplier_authenticated: Annotated[
        int, Meta(ge=1, description="The limits below are those of tier default; here they are so many times as much.")
    ] = 10
    rate_limit_multiplier_premium: Annotated[int, Meta(ge=1, description="The same for tier premium.")] = 50
    rate_limit_session_create: Annotated[
        str, Meta(description="Sessions created. Several windows are written with semicolons: 10/minute;200/hour.")
    ] = "10/minute"
    rate_limit_message_create: Annotated[str, Meta(description="Messages created.")] = "50/minute"
    rate_limit_read: Annotated[str, Meta(description="Lists, and whatever is read.")] = "100/minute"
    rate_limit_execute: Annotated[str, Meta(description="Runs of agents.")] = "5/minute"
    rate_limit_bulk: Annotated[
        str, Meta(description="Calls for many items; each item counts in the limit for all requests, too.")
    ] = "5/minute"
    rate_limit_tool_invoke: Annotated[str, Meta(description="Calls of tools.")] = "20/minute"
    rate_limit_write: Annotated[str, Meta(description="Every other request that changes something.")] = "50/minute"
    rate_limit_auth_failure: Annotated[
        str, Meta(description="Bad credentials from one address, whatever its tier; beyond it none is looked at.")
    ] = "19/minute"
    jwt_secret: Annotated[
        Annotated[str, Meta(min_length=SECRET_LENGTH)] | None,
        Meta(description="Signs and verifies HS256 tokens; at least 32 characters. Default: the secret key."),
    ] = None
    jwt_algorithms: Annotated[
        tuple[Algorithm, ...],
        Meta(min_length=1, description="Accepted in JWTs: HS256, RS256, ES256, EdDSA; all but the first need a JWKS."),
    ] = (Algorithm.HS256,)
    jwt_jwks_url: Annotated[
        str | None, Meta(description="Public keys that verify JWTs: https://…, file:///… or a path.")
    ] = None
    jwt_issuer: Annotated[str | None, Meta(description="What `iss` of a JWT must be. Default: anything.")] = None
    jwt_audience: Annotated[str | None, Meta(description="What `aud` of a JWT must hold. Default: anything.")] = None
    token_seconds: Annotated[
        int, Meta(ge=1, le=MAX_TOKEN_SECONDS, description="Seconds an access token of `/auth/token` is good for.")
    ] = 1800
    refresh_token_seconds: Annotated[
        int, Meta(ge=1, le=31_536_000, description="Seconds a refresh token is good for, unless it is used.")
    ] = 2_592_000
    max_body_bytes: Annotated[int, Meta(ge=1024, description="Larger request bodies are refused with 413.")] = (
        2 * 1024 * 1024
    )
    execution_timeout: Annotated[Seconds, Meta(description="Seconds one run of an agent may take.")] = 600.0
    execution_concurrency: Annotated[int, Meta(ge=1, le=1000, description="Runs at the same time in one process.")] = 16
    execution_lease_seconds: Annotated[Seconds, Meta(description="A worker silent for longer has lost its run.")] = 6.0
    execution_heartbeat_seconds: Annotated[Seconds, Meta(description="How often a worker renews its leases.")] = 2.0
    execution_sweep_seconds: Annotated[
        Seconds, Meta(description="How often lost and forgotten runs are looked for.")
    ] = 2.0
    execution_max_attempts: Annotated[int, Meta(ge=1, description="A run that lost this many workers fails.")] = 3
    approval_timeout_seconds: Annotated[
        Seconds,
        Meta(description="How long a run waits for an approval, or for a client's tool, before it goes on without."),
    ] = 900.0
    webhook_retry_seconds: Annotated[
        Seconds, Meta(description="From the first attempt to the second; each wait is four times the one before.")
    ] = 1.0
    openai_api_key: Annotated[str | None, Meta(description="Key for OpenAI, or for what speaks its protocol.")] = None
    openai_base_url: Annotated[
        str | None, Meta(description="Another server that speaks OpenAI's protocol, up to /v1.")
    ] = None
    anthropic_api_key: Annotated[str | None, Meta(description="Key for Anthropic.")] = None
    anthropic_base_url: Annotated[str | None, Meta(description="Another server that speaks Anthropic's protocol.")] = (
        None
    )
    model_prices: Annotated[
        Path | None,
        Meta(
            description='JSON file of prices, US dollars a million tokens: {"openai/m": {"input": 1, "output": 2}}. '
            "Default: the models that the price list knows."
        ),
    ] = None
    mcp_stdio_commands: Annotated[
        Path | None,
        Meta(
            description="JSON or TOML file of the programs that may run as MCP servers: "
            '{"time": {"command": "/usr/bin/mcp-server-time", "arguments": []}}. Default: none.'
        ),
    ] = None
    outbound_allow: Annotated[
        tuple[str, ...],
        Meta(description="Private networks that users may name, as 10.0.0.0/8,192.168.1.7/32."),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="Networks whose X-Forwarded-For and X-Forwarded-Proto count, as 10.0.0.0/8,127.0.0.1/32."),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Pages that may call the API from a browser, as https://app.example.com; `*` is any, and only "
            "for development. Default: none but the server's own."
        ),
    ] = ()
    ws_origins: Annotated[
        tuple[str, ...],
        Meta(description="Pages that may open a socket, as https://app.example.com. Default: the server's own."),
    ] = ()
    ws_max_connections_per_user: Annotated[int, Meta(ge=1, description="Open sockets of one owner, on all nodes.")] = 10
    ws_max_connections: Annotated[int, Meta(ge=1, description="Open sockets of one node.")] = 5000
    ws_ping_seconds: Annotated[
        Seconds, Meta(description="How often a socket is asked whether its client is there.")
    ] = 25.0
    ws_pong_seconds: Annotated[Seconds, Meta(description="How long its answer is waited for.")] = 10.0
    ws_ack_wait_seconds: Annotated[
        Seconds, Meta(description="How long a client has to acknowledge an event of a queue before it is sent again.")
    ] = 30.0
    ws_max_deliver: Annotated[
        int, Meta(ge=1, le=1000, description="How often an event of a queue is sent before it is a dead letter.")
    ] = 5
    drain_delay_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds at shutdown until a load balancer has seen that we are not ready."),
    ] = 0.0
    drain_window_seconds: Annotated[
        float, Meta(ge=0, le=3600, description="Seconds that sockets, requests and runs get behind that.")
    ] = 20.0
    worker_host: Annotated[str, Meta(description="Where a worker of its own listens, if it has a port.")] = "127.0.0.1"
    worker_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        Meta(description="Where a worker of its own tells health and metrics, without credentials. Default: nowhere."),
    ] = None
    metrics_enabled: Annotated[bool, Meta(description="Whether /metrics answers, for everybody who reaches it.")] = True
    log_level: Annotated[
        LogLevel, Meta(description="`debug`, `info`, `warning` or `error`: the least severe line that is written.")
    ] = LogLevel.INFO
    log_format: Annotated[
        LogFormat | None, Meta(description="Default: `json` in production, `console` in development.")
    ] = None

    @property
    def directory(self) -> Path:
        return self.data_dir or Path(platformdirs.user_data_dir("ai-agent"))

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.directory / 'ai-agent.db'}"

    @property
    def shares_runs(self) -> bool:
        """Whether several processes run what is queued: an embedded database belongs to one."""
        return self.redis_url is not None and not self.database.startswith("sqlite")

    @property
    def format(self) -> LogFormat:
        production = self.environment is Environment.PRODUCTION
        return self.log_format or (LogFormat.JSON if production else LogFormat.CONSOLE)

    @property
    def outbound_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Raises ConfigurationError for what is no network."""
        return tuple(_networks("outbound_allow", self.outbound_allow))

    @property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Raises ConfigurationError for what is no network."""
        return tuple(_networks("trusted_proxies", self.trusted_proxies))

    @property
    def origins(self) -> frozenset[Origin]:
        """Of pages that may open a socket. Raises ConfigurationError for what is no origin."""
        return frozenset(_origins("ws_origins", self.ws_origins))

    @property
    def cors(self) -> frozenset[Origin] | None:
        """Of pages that may call the API; None for any. Raises ConfigurationError for what is no origin."""
        return None if "*" in self.cors_origins else frozenset(_origins("cors_origins", self.cors_origins))

    @property
    def secret(self) -> str:
        """The secret key, from the setting or from the data directory, where the first start has put it."""
        if self.secret_key:
            return self.secret_key
        file = self.directory / "secret.key"
        key = kept_secret(file, lambda: secrets.token_urlsafe(48))
        if len(key) < SECRET_LENGTH:
            raise ConfigurationError(f"{file} holds no secret key", "Remove it, and a new one is made")
        return key


_LISTS = {field.name for field in msgspec.structs.fields(Settings) if isinstance(field.default, tuple)}
"""Settings of several values, written with commas."""


def _networks(field: str, texts: Sequence[str]) -> Iterator[IPv4Network | IPv6Network]:
    for text in texts:
        try:
            yield ip_network(text)
        except ValueError as error:
            raise ConfigurationError(f"{variable(field)}: {error}", _meaning(field)) from None


def _origins(field: str, texts: Sequence[str]) -> Iterator[Origin]:
    for text in texts:
        try:
            yield parse_origin(text)
        except ValueError:
            raise ConfigurationError(f"{variable(field)}: {text!r} is no origin of a page", _meaning(field)) from None


def variable(field: str) -> str:
    """The environment variable of a field."""
    own = field.startswith(("openai_", "anthropic_"))
    return field.upper() if own else PREFIX + field.upper()


def load_settings(
    environment: Mapping[str, str] | None = None, overrides: Mapping[str, object] = MappingProxyType({})
) -> Settings:
    """Settings from the environment over `.env`. Raises ConfigurationError that names the wrong variable."""
    environment = _environment() if environment is None else environment
    fields = {variable(name): name for name in Settings.__struct_fields__}
    given: dict[str, object] = {fields[name]: text for name, text in environment.items() if name in fields and text}
    given |= {name: _parts(str(given[name])) for name in _LISTS & given.keys()}
    try:
        settings = msgspec.convert({**given, **overrides}, Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise _named(error) from None
    _ = settings.outbound_networks, settings.proxy_networks, settings.origins, settings.cors  # Raise for what is none.
    _check_production(settings)
    _check_jwks(settings)
    return settings


def unknown_variables() -> list[str]:
    """Variables with our prefix that are no settings: misspelt, most often."""
    known = {variable(name) for name in Settings.__struct_fields__} | CLIENT_VARIABLES
    return sorted(name for name in _environment() if name.startswith(PREFIX) and name not in known)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _environment() -> dict[str, str]:
    return {**{k: v for k, v in dotenv.dotenv_values(".env").items() if v is not None}, **os.environ}


def _path(kind: type[Any], value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        try:
            return Path(value).expanduser()
        except RuntimeError as error:  # ~name of somebody who is not there
            raise ValueError(str(error)) from error
    raise TypeError(f"{kind} is not a setting's type")


def _named(error: msgspec.ValidationError) -> ConfigurationError:
    message, _, path = str(error).partition(" - at `$.")
    name = re.split(r"[`\[.]", path, maxsplit=1)[0]
    return ConfigurationError(f"{variable(name)}: {message}", _meaning(name) if path else "")


def _meaning(field: str) -> str:
    return str(get_type_hints(Settings, include_extras=True)[field].__metadata__[-1].description)


def _check_production(settings: Settings) -> None:
    if settings.environment is not Environment.PRODUCTION:
        return
    if settings.secret_key is None:
        raise ConfigurationError(
            "AI_AGENT_SECRET_KEY is required in production", "Set it to 32 or more random characters"
        )
    if settings.auth is Auth.DISABLED:
        raise ConfigurationError("AI_AGENT_AUTH=disabled is not allowed in production", "Remove it and use API keys")
    if settings.cors is None:
        hint = "Name the pages that may call the API: https://app.example.com,…"
        raise ConfigurationError("AI_AGENT_CORS_ORIGINS=* is not allowed in production", hint)


def _check_jwks(settings: Settings) -> None:
    url = settings.jwt_jwks_url
    if url is None and (asymmetric := set(settings.jwt_algorithms) - {Algorithm.HS256}):
        names = ", ".join(sorted(asymmetric))
        raise ConfigurationError(f"AI_AGENT_JWT_JWKS_URL is required for {names}", _meaning("jwt_jwks_url"))
    if url is not None and "://" in url and not url.lower().startswith(("https://", "http://", "file:///")):
        raise ConfigurationError("AI_AGENT_JWT_JWKS_URL: Is no address of keys", _meaning("jwt_jwks_url"))
    production = settings.environment is Environment.PRODUCTION
    if production and url is not None and url.lower().startswith("http://") and not _on_loopback(url):
        hint = "Whoever changes keys on their way could make every token. Use https:// or a file"
        raise ConfigurationError("AI_AGENT_JWT_JWKS_URL must be https:// in production", hint)


def _on_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:  # A name, or no address at all.
        return False


def kept_secret(path: Path, make: Callable[[], str]) -> str:
    """The text in a file that only its owner can read; made at the first use. Two processes agree on one."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_once(path, make())
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigurationError(f"{path} cannot be used: {reason}", "Set AI_AGENT_DATA_DIR") from error


def _write_once(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    try:
        # Of two processes only one links its draft; both read what that one wrote.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def env_example() -> str:
    """The text of `.env.example`."""
    lines = ["# Every setting, with its default. Copy to .env and change what you need.", ""]
    for field in msgspec.structs.fields(Settings):
        lines += [f"# {_meaning(field.name)}"]
        lines += [f"#{variable(field.name)}={_written(field.default)}", ""]
    return "\n".join(lines)


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
