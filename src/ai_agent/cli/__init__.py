"""`ai-agent`: errors are one line and a hint; exit codes 0, 1 (failed), 2 (usage)."""

import sys
from pathlib import Path
from typing import NoReturn

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from ai_agent.domain.api_keys import MAX_OVERLAP_SECONDS
from ai_agent.domain.errors import AIAgentError, ConfigurationError, InvalidFields
from ai_agent.settings import load_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ai-agent")
def cli() -> None:
    """A server for AI agents where nothing is lost."""


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the embedded database lives.")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes that serve side by side: with PostgreSQL and Redis.",
)
@click.option("--reload", is_flag=True, help="Restart when the code changes.")
@click.option("--no-worker", is_flag=True, help="Leave the runs to `ai-agent worker`.")
def serve(host: str, port: int, data_dir: Path | None, workers: int, reload: bool, no_worker: bool) -> None:
    """Start the API and its worker."""
    if reload and workers > 1:
        raise click.UsageError("--reload and --workers exclude each other")
    from ai_agent.cli.serve import serve as run

    run(host, port, data_dir, workers=workers, reload=reload, worker=not no_worker)


@cli.command()
@click.option("--concurrency", type=click.IntRange(1, 1000), help="Runs at the same time; default: the setting's.")
@click.option("--host", help="Where health and metrics are told; default: the setting's.")
@click.option("--port", type=click.IntRange(0, 65535), help="Tells health and metrics there; default: the setting's.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The same as of the API beside it.")
def worker(concurrency: int | None, host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Run what the API queues, in a process of its own: with PostgreSQL and Redis."""
    from ai_agent.cli.worker import work

    work(concurrency, host, port, data_dir)


_url = click.option("--url", envvar="AI_AGENT_URL", default="http://127.0.0.1:8000", show_default=True)
_api_key = click.option(
    "--api-key", envvar="AI_AGENT_API_KEY", help="Default: the key in the embedded server's data directory."
)


@cli.command()
@click.argument("agent", default="assistant")
@_url
@_api_key
@click.option("--session", "session_id", help="Go on with this session.")
def chat(agent: str, url: str, api_key: str | None, session_id: str | None) -> None:
    """Talk with an agent; Ctrl-C stops the answer, not the chat."""
    from ai_agent.cli.chat import chat as run

    run(agent, url, api_key, session_id, load_settings())


@cli.command()
@click.argument("channel", required=False)
@click.option("--user", is_flag=True, help="The queue of whoever the key belongs to, instead of a channel.")
@_url
@_api_key
@click.option("--since", metavar="EPOCH:SEQ", help="Begin behind this event.")
@click.option("--from", "start", metavar="now|earliest|last:N", help="Where to begin.  [default: now]")
@click.option("--types", default="", metavar="PATTERN,…", help="Only these, such as `message.*`.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")
def tail(
    channel: str | None,
    user: bool,
    url: str,
    api_key: str | None,
    since: str | None,
    start: str | None,
    types: str,
    as_json: bool,
) -> None:
    """Print the events of a channel as they happen, such as `session:ID`; Ctrl-C ends it.

    An execution's channel ends with the execution. Events of a queue are acknowledged when they are printed.
    """
    if user == (channel is not None) or (user and (since or start)):
        raise click.UsageError("Name a channel, or --user without --since and --from")
    from ai_agent.cli.tail import tail as run

    wanted = [pattern.strip() for pattern in types.split(",") if pattern.strip()]
    run(channel, url, api_key, since, start, wanted, load_settings(), as_json=as_json)


@cli.command()
def doctor() -> None:
    """Check every dependency and setting, and say what to do."""
    from ai_agent.cli.doctor import doctor as run

    sys.exit(run())


@cli.command()
@click.option("--yaml", "as_yaml", is_flag=True, help="YAML instead of JSON.")
def openapi(as_yaml: bool) -> None:
    """Print the OpenAPI document of the API."""
    from ai_agent.cli.openapi import openapi as run

    run(as_yaml=as_yaml)


@cli.command()
def asyncapi() -> None:
    """Print the AsyncAPI document of the real-time protocol."""
    from ai_agent.cli.openapi import asyncapi as run

    run()


@cli.group()
def db() -> None:
    """Migrations, and copies of an embedded database."""


@db.command()
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Upgrade to a revision."""
    from ai_agent.cli.db import upgrade as run

    run(revision)


@db.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Downgrade to a revision, or `base`."""
    from ai_agent.cli.db import downgrade as run

    run(revision)


@db.command()
def current() -> None:
    """Print the database's revision."""
    from ai_agent.cli.db import current as run

    run()


@db.command()
def check() -> None:
    """Fail when the schema differs from the code's."""
    from ai_agent.cli.db import check as run

    run()


@db.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Copy an embedded database while it runs."""
    from ai_agent.cli.db import backup as run

    run(file)


@db.command()
@click.argument("file", type=click.Path(path_type=Path))
def restore(file: Path) -> None:
    """Put a copy back, while no server runs; what is there is kept beside it."""
    from ai_agent.cli.db import restore as run

    run(file)


@cli.group()
def keys() -> None:
    """API keys, straight on the database."""


@keys.command()
@click.option("--name", default="key", show_default=True, help="What the key is for.")
@click.option("--owner", default="admin", show_default=True, help="Whose rows the key reaches.")
@click.option("--scope", "scopes", multiple=True, help="May be repeated. Default: admin.")
@click.option(
    "--tier",
    type=click.Choice(["default", "authenticated", "premium"]),
    default="authenticated",
    help="Its rate limits.",
)
@click.option("--expires", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]), help="A date or time in UTC.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def create(name: str, owner: str, scopes: tuple[str, ...], tier: str, expires: object, as_json: bool) -> None:
    """Make a key and print it this once."""
    from ai_agent.cli.keys import create as run

    run(name, owner, list(scopes), tier, expires, as_json=as_json)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_keys(as_json: bool) -> None:
    """List keys, without the keys themselves."""
    from ai_agent.cli.keys import list_keys as run

    run(as_json=as_json)


@keys.command()
@click.argument("key_id", type=click.UUID)
@click.option(
    "--overlap",
    "seconds",
    default=3600,
    show_default=True,
    type=click.IntRange(0, MAX_OVERLAP_SECONDS),
    help="Seconds for which the old key stays good; 0 revokes it at once.",
)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def rotate(key_id: object, seconds: int, as_json: bool) -> None:
    """Make a key in the place of another and print it this once."""
    from ai_agent.cli.keys import rotate as run

    run(key_id, seconds, as_json=as_json)


@keys.command()
@click.argument("key_id", type=click.UUID)
def revoke(key_id: object) -> None:
    """Revoke a key; every node refuses it within a second."""
    from ai_agent.cli.keys import revoke as run

    run(key_id)


@keys.command()
def generate() -> None:
    """Print a well-formed key without storing it, for AI_AGENT_BOOTSTRAP_API_KEY."""
    from ai_agent.cli.keys import generate as run

    run()


@cli.command()
def rotate_secrets() -> None:
    """Re-encrypt stored secrets under the newest secret key; the server may run meanwhile."""
    from ai_agent.cli.rotate_secrets import rotate_secrets as run

    run()


def fail(message: str, hint: str = "", code: int = 1) -> NoReturn:
    """One line that names what is wrong, one that says what to do, and the exit code."""
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"Hint: {hint}", err=True)
    sys.exit(code)


def main() -> None:
    try:
        sys.exit(cli.main(prog_name="ai-agent", standalone_mode=False))
    except ConfigurationError as error:
        fail(error.message, error.hint)
    except InvalidFields as error:
        fail("; ".join(f"{one.field}: {one.message}" for one in error.errors))
    except AIAgentError as error:
        fail(error.message)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ai-agent"
        fail(error.format_message(), f"See: {command} --help", code=2)
    except click.Abort:
        sys.exit(130)
