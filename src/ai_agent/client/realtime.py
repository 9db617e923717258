"""The real-time client: any number of channels over one socket at a time, and nothing lost between two of them."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal, Self

import msgspec

from ai_agent.client import notices
from ai_agent.client.address import api_key, server_url
from ai_agent.client.conversation import Conversation
from ai_agent.client.errors import ClientError, Closed, Unreachable
from ai_agent.client.events import Event, EventMap
from ai_agent.client.link import CLOSING_SECONDS, Link
from ai_agent.client.subscription import Subscription
from ai_agent.client.waits import share
from ai_agent.domain.channels import presence_channel, user_channel
from ai_agent.domain.frames import Call, ClientInfo, Frame, History, Presence, Since, Subscribe
from ai_agent.domain.presence import Present

Token = str | Callable[[], Awaitable[str]]

GATHER_SECONDS = 0.05
"""Acknowledgements of so long a time are sent together."""

log = logging.getLogger("ai_agent.client")


class HistoryPage(msgspec.Struct):
    """A page of a channel: what it holds of events, and its first and newest number."""

    epoch: str
    top: int
    floor: int
    events: list[Event]


class _Page(msgspec.Struct):
    epoch: str
    top: int
    floor: int
    events: list[EventMap]


class RealtimeClient:
    """Connects when it is entered, and again whenever the connection is lost, until it is left.

    `token` is an API key or a JWT, or a function that is asked for one at each connection and before the last ends;
    what it raises ends the client. Without it, or a `url`, both are found as `ai-agent chat` finds them. `codec` is
    `json` or `msgpack`. `on_outage` is called once each time that the server goes away. For `patience` seconds
    the first connection is tried; later ones have all the time there is.
    """

    def __init__(
        self,
        url: str | None = None,
        token: Token | None = None,
        *,
        codec: Literal["json", "msgpack"] = "json",
        name: str = "python",
        patience: float = 10.0,
        on_outage: Callable[[], None] = lambda: None,
    ):
        self.url = server_url(url)
        self._token = api_key() if token is None else token
        info = ClientInfo(name, uuid.uuid4().hex)
        self._conversation = Conversation(info, renewable=callable(self._token))
        self._link = Link(self.url, codec, self._conversation, self._hear)
        self._patience = patience
        self._on_outage = on_outage
        self._subscriptions: dict[str, Subscription] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()
        self._settling: asyncio.TimerHandle | None = None
        self._retry: notices.Retry | None = None
        self._error: Exception | None = None
        self.user: str | None = None

    async def __aenter__(self) -> Self:
        """Raises Unreachable, Closed."""
        self._patient_until = time.monotonic() + self._patience
        self._begin(self._run())
        try:
            await self._ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                for ack in self._conversation.acknowledgements():
                    await self._ask(ack)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for subscription in list(self._subscriptions.values()):
            subscription.leave()

    # What an application does

    def subscribe(
        self,
        channel: str,
        *,
        since: Since | None = None,
        from_: str | None = None,
        types: Sequence[str] = (),
        on_gap: Literal["latest", "earliest", "fail"] = "latest",
    ) -> Subscription:
        """What happens in a channel, behind a position or from `now`, `earliest` or `last:N`.

        `types` are patterns such as `message.*`. A second subscription of a channel raises ValueError.
        """
        if channel in self._subscriptions:
            raise ValueError(f"There is a subscription of {channel} already")
        wanted = Subscribe(ch=channel, since=since, from_=from_, types=list(types), on_gap=on_gap)
        subscription = Subscription(channel, self._leave, self._slow)
        self._subscriptions[channel] = subscription
        self._conversation.subscribe(wanted)
        self._link.write()
        if self._error is not None:
            subscription.fail(self._error)
        return subscription

    def queue(self, *, types: Sequence[str] = ()) -> Subscription:
        """What waits for the user, and what comes: approvals, ends of their runs, notifications; urgent first.

        Each event is kept, and told every client of the user, until one of them has acknowledged it. It is delivered
        here once, however often it is sent.
        """
        if self.user is None:
            raise ValueError("Enter the client first: whose queue it is the server says")
        return self.subscribe(user_channel(self.user), types=types)

    def acknowledge(self, event: Event) -> None:
        """Takes an event out of the user's queue, soon and for good: also when the connection is lost meanwhile."""
        self._conversation.acknowledge(event.ch, event.eid)
        self._settle_later()

    def _settle_later(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._settle)

    def _settle(self) -> None:
        self._settling = None
        self._conversation.settle()
        self._link.write()

    async def call(self, method: str, **params: Any) -> Any:
        """Calls a method and answers with its result. Raises Refused, Closed, and Unreachable when the connection
        was lost: then nobody knows whether it was done.
        """
        return await self._ask(Call(method=method, params=params))

    async def history(self, channel: str, since: Since | None = None, limit: int = 50) -> HistoryPage:
        """A page of a channel behind a position; up to 200 events. Raises Refused, Closed, Unreachable."""
        data = await self._ask(History(ch=channel, since=since or Since(0), limit=limit))
        page = msgspec.convert(data, _Page)
        return HistoryPage(page.epoch, page.top, page.floor, [event.typed(page.epoch) for event in page.events])

    async def presence(self, session_id: str) -> list[Present]:
        """Who is in a session, in the order in which they came: all whose clients are subscribed to its
        `presence:{session_id}`. Raises Refused, Closed, Unreachable.
        """
        return await self._present(Presence(ch=presence_channel(session_id)))

    async def typing(self, session_id: str, typing: bool = True) -> list[Present]:
        """Lets all in a session know whether the user is typing there, for ten seconds; who is there.

        Refused, as `bad_channel`, unless this client is subscribed to `presence:{session_id}`.
        """
        return await self._present(Presence(ch=presence_channel(session_id), typing=typing))

    async def _present(self, frame: Presence) -> list[Present]:
        return msgspec.convert((await self._ask(frame))["users"], list[Present])

    async def _ask(self, frame: Frame) -> Any:
        await self._ready()
        command = self._conversation.command(frame)
        answer = self._answers[command] = asyncio.get_running_loop().create_future()
        self._link.write()
        try:
            return await answer
        finally:
            del self._answers[command]

    def _leave(self, left: Subscription) -> None:
        if self._subscriptions.get(left.channel) is left:
            del self._subscriptions[left.channel]
            self._conversation.unsubscribe(left.channel)
            self._link.write()

    def _slow(self, reader: Subscription, slow: bool) -> None:
        if self._subscriptions.get(reader.channel) is reader:
            (self._conversation.pause if slow else self._conversation.proceed)(reader.channel)
            self._link.write()

    async def _ready(self) -> None:
        await self._connected.wait()
        if self._error is not None:
            raise self._error

    # One socket after another

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while self._error is None:
                code = await self._link.run(await self._fresh_token())
                self._connected.clear()
                self._conversation.lost(code)
                self._hear()
                await self._wait()
        except Exception as error:  # Also of who was asked for a token: whoever reads is not left waiting.
            self._fail(error)

    async def _fresh_token(self) -> str | None:
        return await self._token() if callable(self._token) else self._token

    async def _wait(self) -> None:
        if (retry := self._retry) is not None:
            await asyncio.sleep(share(retry.within_ms) if retry.jitter else retry.within_ms / 1000)

    async def _renew(self) -> None:
        try:
            token = await self._fresh_token()
        except Exception:  # The connection ends without it, and the next one asks again.
            log.warning("There is no new token for %s", self.url, exc_info=True)
        else:
            self._conversation.renew(token or "")
            self._link.write()

    def _fail(self, error: Exception) -> None:
        """Ends the client for good."""
        self._error = error
        self._connected.set()
        for subscription in self._subscriptions.values():
            subscription.fail(error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)

    # What the conversation tells

    def _hear(self) -> None:
        while self._conversation.notices:
            self._take(self._conversation.notices.popleft())

    def _take(self, notice: notices.Output) -> None:
        match notice:
            case Event() | notices.Gap() | notices.Live() | notices.EpochChanged():
                self._subscriptions[notice.ch].put(notice)
            case notices.Ended():
                self._subscriptions.pop(notice.ch).fail(notice.error)
            case notices.Connected():
                self._link.silence_seconds, self.user, self._retry = notice.silence_seconds, notice.user, None
                self._connected.set()
                self._settle_later()
            case notices.Replied() | notices.Failed():
                self._answer(notice)
            case notices.Trouble():
                log.warning("%s says: %s (%s)", self.url, notice.message, notice.code)
            case notices.TokenWanted():
                self._begin(self._renew())
            case notices.Drop():
                self._link.dropped = True
            case notices.Retry():
                self._lose(notice)
            case notices.Over():
                self._fail(Closed(notice.code, notice.reason, notice.message))

    def _answer(self, notice: notices.Replied | notices.Failed) -> None:
        answer = self._answers.get(notice.id)
        if answer is None or answer.done():
            return  # Who asked has gone away.
        if isinstance(notice, notices.Replied):
            answer.set_result(notice.data)
        else:
            answer.set_exception(notice.error)

    def _lose(self, retry: notices.Retry) -> None:
        if self.user is None and time.monotonic() >= self._patient_until:
            self._fail(Unreachable(f"No answer from {self.url}"))
        elif self.user is not None and self._retry is None:
            self._on_outage()
        self._retry = retry
