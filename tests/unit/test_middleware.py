"""The outer wrapper, without a server around it."""

import asyncio
from typing import Any

import pytest

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from ai_agent.api.middleware import OuterWrapper
from ai_agent.api.proxies import TrustedProxies
from ai_agent.observability.timing import timed


def answer_headers(
    *, scheme: str = "http", version: str = "1.1", draining: bool = False, timing: bool = False
) -> dict[str, str]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with timed("part"):
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def call() -> None:
        scope = {"type": "http", "http_version": version, "method": "GET", "path": "/", "scheme": scheme, "headers": []}
        wrapper = OuterWrapper(app, TrustedProxies(()), lambda: draining, timing=timing)
        await wrapper(scope, None, send)  # type: ignore[arg-type]  # what the app uses of them

    asyncio.run(call())
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(("scheme", "told"), [("https", True), ("http", False)])
def test_behind_tls_browsers_are_told_to_stay_there(scheme: str, told: bool) -> None:
    assert ("strict-transport-security" in answer_headers(scheme=scheme)) is told


@pytest.mark.parametrize("timing", [True, False])
def test_times_are_told_in_development_only(timing: bool) -> None:
    assert answer_headers(timing=timing).get("server-timing", "").startswith("part;dur=") is timing


@pytest.mark.parametrize(
    ("version", "draining", "told"), [("1.1", True, "close"), ("1.1", False, None), ("2", True, None)]
)
def test_a_server_that_drains_sends_the_next_request_elsewhere(version: str, draining: bool, told: str | None) -> None:
    assert answer_headers(version=version, draining=draining).get("connection") == told
