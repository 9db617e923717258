"""Application code inside the server: handlers that tell each other things over the channels plugin."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import post
from litestar.channels import ChannelsPlugin
from litestar.di import NamedDependency
from litestar.params import JSONBody

from ai_agent.api.guards import PUBLIC
from ai_agent.app import create_app
from ai_agent.realtime.log_backend import LogBackend
from ai_agent.realtime.sqlite_log import SqliteLog
from ai_agent.settings import load_settings
from tests.conftest import SECRET, prepare

NEWS = "topic:news"


@post("/news", opt=PUBLIC)
async def tell(channels: NamedDependency[ChannelsPlugin], data: JSONBody[dict[str, Any]]) -> None:
    channels.publish(data, NEWS)


@post("/ask", opt=PUBLIC)
async def ask(channels: NamedDependency[ChannelsPlugin]) -> str:
    """Answers the next news."""
    async with channels.start_subscription(NEWS) as subscriber:
        return (await anext(subscriber.iter_events())).decode()


def application(folder: Path) -> Any:
    prepare(f"sqlite:///{folder}/ai-agent.db")
    return create_app(load_settings({"AI_AGENT_DATA_DIR": str(folder), "AI_AGENT_SECRET_KEY": SECRET}))


def test_handlers_publish_and_subscribe(tmp_path: Path) -> None:
    app = application(tmp_path)
    app.register(tell)
    app.register(ask)

    async def run() -> None:
        transport = httpx.ASGITransport(app)
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://app") as http:
            asked = asyncio.create_task(http.post("/ask"))
            while not asked.done():
                assert (await http.post("/news", json={"number": 1})).status_code == 201
                await asyncio.sleep(0.01)
            assert asked.result().json() == '{"number":1}'

    async def in_time() -> None:
        async with asyncio.timeout(20):
            await run()

    asyncio.run(in_time())


def test_the_log_is_open_for_as_long_as_channels_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for room, name in (
        (SqliteLog, "open"),
        (SqliteLog, "close"),
        (LogBackend, "on_startup"),
        (LogBackend, "on_shutdown"),
    ):
        monkeypatch.setattr(room, name, noted(getattr(room, name), called))

    async def run() -> None:
        async with application(tmp_path).lifespan():
            pass

    asyncio.run(run())
    assert called == ["open", "on_startup", "on_shutdown", "close"]


def noted(method: Callable[[Any], Awaitable[None]], called: list[str]) -> Callable[[Any], Awaitable[None]]:
    async def note(room: Any) -> None:
        called.append(method.__name__)
        await method(room)

    return note
