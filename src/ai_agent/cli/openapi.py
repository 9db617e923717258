"""`ai-agent openapi` and `ai-agent asyncapi`: the documents, the same wherever they are printed."""

import click

from ai_agent.api import documents
from ai_agent.app import create_app
from ai_agent.settings import load_settings


def openapi(*, as_yaml: bool) -> None:
    """Needs neither a database nor a setting: the application is made, and not started."""
    app = create_app(load_settings({"AI_AGENT_SECRET_KEY": "-" * 32}))
    click.echo((documents.as_yaml(app) if as_yaml else documents.as_json(app)).rstrip())


def asyncapi() -> None:
    click.echo(documents.asyncapi_json().rstrip())
