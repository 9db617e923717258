"""Application code inside the server: handlers that tell each other things over the channels plugin."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
from litestar import post
from litestar.channels import ChannelsPlugin
from litestar.di import NamedDependency
from litestar.params import JSONBody

from ai_agent.api.guards import PUBLIC
from ai_agent.app import create_app
from ai_agent.realtime.event_log import Position
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


async def logged(file: Path) -> list[bytes]:
    log = SqliteLog(file)
    await log.open()
    page = await log.read(NEWS, Position("", 0), 500)
    await log.close()
    return [bytes(event.data) for event in page.events]


def test_handlers_of_an_application_publish_and_subscribe_while_the_server_runs(tmp_path: Path) -> None:
    prepare(f"sqlite:///{tmp_path}/ai-agent.db")
    app: Any = create_app(load_settings({"AI_AGENT_DATA_DIR": str(tmp_path), "AI_AGENT_SECRET_KEY": SECRET}))
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
            # The log is open for as long as the plugin publishes what waits.
            await http.post("/news", json={"last": True})
        assert (await logged(tmp_path / "events.db"))[-1] == b'{"last":true}'

    async def in_time() -> None:
        async with asyncio.timeout(20):
            await run()

    asyncio.run(in_time())
