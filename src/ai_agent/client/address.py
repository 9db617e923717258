"""Where the server is, and what opens it, for whoever does not say."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from ai_agent.client.errors import ClientError
from ai_agent.domain.api_keys import ADMIN_KEY_FILE

DEFAULT_URL = "http://127.0.0.1:8000"


def server_url(url: str | None) -> str:
    """The URL that is given, or AI_AGENT_URL, or that of a server on this machine. Raises ClientError."""
    url = (url or os.environ.get("AI_AGENT_URL") or DEFAULT_URL).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise ClientError(f"{url} is no http or https URL")
    return url


def api_key() -> str | None:
    """AI_AGENT_API_KEY, or the key of an embedded server on this machine, or None."""
    return os.environ.get("AI_AGENT_API_KEY") or kept_key(
        Path(os.environ.get("AI_AGENT_DATA_DIR") or platformdirs.user_data_dir("ai-agent"))
    )


def kept_key(directory: Path) -> str | None:
    """The admin key that an embedded server keeps in its data directory."""
    file = directory / ADMIN_KEY_FILE
    return file.read_text().strip() if file.exists() else None
