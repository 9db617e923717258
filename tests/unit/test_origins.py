"""Which pages may open a socket."""

import pytest

from ai_agent.api.websocket.origins import Origins
from ai_agent.domain.errors import AuthorizationError, ConfigurationError
from ai_agent.domain.origins import parse_origin
from ai_agent.settings import load_settings


def allowed(origin: str | None, host: str = "example.com", *, listed: str = "", scheme: str = "ws") -> bool:
    headers = {b"host": host.encode()} | ({} if origin is None else {b"origin": origin.encode()})
    scope = {"scheme": scheme, "headers_by_name": headers}
    settings = load_settings({"AI_AGENT_WS_ORIGINS": listed})
    try:
        Origins(settings.origins).check(scope)  # type: ignore[arg-type]  # what is looked at
    except AuthorizationError:
        return False
    return True


def test_who_is_no_browser_sends_no_origin_and_may() -> None:
    assert allowed(None)
    assert allowed(None, listed="https://app.example.com")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://example.com", "example.com"),
        ("https://example.com:443", "example.com"),
        ("http://example.com", "example.com:80"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("HTTPS://Example.COM", "eXample.com"),
    ],
)
def test_the_servers_own_pages_may(origin: str, host: str) -> None:
    assert allowed(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://example.com:8443",
        "https://example.com.evil.example",
        "https://evil.example/https://example.com",
        "https://example.com@evil.example",
        "https://example.com/",
        "https://example.com https://evil.example",
        "https://example.com, https://example.com",
        "file://",
        "chrome-extension://example.com",
        "null",
        "",
    ],
)
def test_no_other_page_may(origin: str) -> None:
    assert not allowed(origin)


def test_a_page_that_anybody_may_have_changed_is_none_of_a_secure_server() -> None:
    assert allowed("https://example.com", scheme="wss")
    assert not allowed("http://example.com", scheme="wss")


def test_where_pages_are_listed_only_they_may() -> None:
    listed = "https://app.example.com, http://localhost:3000"
    assert allowed("https://app.example.com", listed=listed)
    assert allowed("http://localhost:3000", listed=listed)
    for origin in ("https://example.com", "http://app.example.com", "http://localhost:3001", "null"):
        assert not allowed(origin, listed=listed)


def test_a_host_that_is_none_has_no_pages() -> None:
    assert not allowed("https://example.com", "")
    assert not allowed("https://example.com", "example.com/x")


@pytest.mark.parametrize("listed", ["*", "https://*.example.com", "example.com", "https://example.com/app", "null"])
def test_what_is_no_origin_is_not_listed(listed: str) -> None:
    with pytest.raises(ConfigurationError, match="AI_AGENT_WS_ORIGINS"):
        load_settings({"AI_AGENT_WS_ORIGINS": f"https://example.com,{listed}"})


def test_an_origin_names_its_port_or_not() -> None:
    assert (
        parse_origin("https://example.com") == parse_origin("https://EXAMPLE.com:443") == ("https", "example.com", 443)
    )
