"""Channels, as a socket listens to them: who may, from where, and what is read of them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import UUID

import msgspec

from ai_agent.api.websocket.errors import BadChannel, Unsupported
from ai_agent.api.websocket.queue_subscription import QueueSubscription
from ai_agent.api.websocket.shown import Shown
from ai_agent.api.websocket.subscriptions import ChannelSubscription, Source, Subscription
from ai_agent.domain.channels import Channel, ChannelKind, parse
from ai_agent.domain.events import EventFrame
from ai_agent.domain.frames import OnGap, Since, Subscribed
from ai_agent.domain.identity import Principal
from ai_agent.domain.presence import Present
from ai_agent.realtime.event_log import EventLog, Position
from ai_agent.realtime.follow import following
from ai_agent.realtime.inbox import Inbox
from ai_agent.realtime.log_reads import LogReads
from ai_agent.realtime.presence import Presence
from ai_agent.services.channel_access import ChannelAccess, Hidden
from ai_agent.services.execution_reader import oldest
from ai_agent.services.execution_streams import ExecutionStreams

CHECKS_AT_ONCE = 4
"""Of all sockets: those of a node that died come to the others at once, and requests need the database, too."""


class Wanted(msgspec.Struct, frozen=True):
    """A subscription as a client asks for it: behind a position, or from `now`, `earliest` or `last:N`."""

    ch: str
    since: Since | None = None
    start: str = "now"
    on_gap: OnGap = "latest"
    types: Sequence[str] = ()


class History(msgspec.Struct):
    """A page of a channel."""

    epoch: str
    top: int
    floor: int
    events: list[EventFrame]


class Channels:
    def __init__(
        self, access: ChannelAccess, log: EventLog, streams: ExecutionStreams, inbox: Inbox, presence: Presence
    ):
        self._access = access
        self._log = log
        self._streams = streams
        self._inbox = inbox
        self._presence = presence
        self._reads = LogReads(log)
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def subscribe(
        self, principal: Principal, wanted: Wanted, ready: Callable[[Subscription], None], client: str
    ) -> tuple[Subscription, Subscribed]:
        """Raises BadChannel, Unsupported, AuthorizationError, GapRefused, ServiceUnavailable."""
        channel = _parsed(wanted.ch)
        hidden = await self._check(principal, channel)
        if channel.kind is ChannelKind.USER:
            return await self._queue(principal, wanted, channel, Shown(wanted.types, hidden), ready, client)
        subscription = ChannelSubscription(wanted.ch, channel, Shown(wanted.types, hidden), wanted.on_gap, ready)
        since = await self._place(channel, wanted)
        try:
            source = self._source(channel, wanted.ch, since, subscription.news)
            subscription.source = await subscription.ends.enter_async_context(source)
            told = await subscription.begin(asked=wanted.since is not None)
            if channel.kind is ChannelKind.PRESENCE:
                self._presence.enter(channel.key, subscription, principal.subject, client)
                subscription.ends.callback(self._presence.leave, channel.key, subscription)
            return subscription, told
        except BaseException:
            await subscription.close()
            raise

    async def _queue(
        self,
        principal: Principal,
        wanted: Wanted,
        channel: Channel,
        shown: Shown,
        ready: Callable[[Subscription], None],
        client: str,
    ) -> tuple[Subscription, Subscribed]:
        subscription = QueueSubscription(wanted.ch, channel, principal.subject, self._inbox, shown, client, ready)
        try:
            return subscription, await subscription.begin()
        except BaseException:
            await subscription.close()
            raise

    async def review(self, principal: Principal, subscription: Subscription) -> None:
        """Shows what the principal may see now. Raises AuthorizationError when that is nothing, ServiceUnavailable."""
        subscription.hide(await self._check(principal, subscription.channel))

    async def history(self, principal: Principal, name: str, since: Since, limit: int) -> History:
        """The events behind a position, or the oldest that are kept. Raises as `subscribe`."""
        channel = _parsed(name)
        if channel.kind is ChannelKind.USER:
            raise Unsupported("A user's queue has no history: subscribe to what waits in it", field="ch")
        hidden = await self._check(principal, channel)
        position = Position(since.epoch, since.seq)
        page = await self._reads.read(name, position, limit)
        if channel.kind is ChannelKind.EXECUTION:
            events = (await self._streams.told(UUID(channel.key), position, limit)).items
        elif page.after is None:
            events = (await self._reads.read(name, Position(page.epoch, page.floor - 1), limit)).events
        else:
            events = page.events
        shown = Shown(hidden=hidden)
        return History(page.epoch, page.top, page.floor, [event for event in events if event in shown])

    async def present(
        self, principal: Principal, name: str, subscription: Subscription | None, typing: bool | None
    ) -> list[Present]:
        """Who is in a session; says before whether the subscription's user types there.

        Raises BadChannel, AuthorizationError, ServiceUnavailable.
        """
        channel = _parsed(name)
        if channel.kind is not ChannelKind.PRESENCE:
            raise BadChannel("Who is there is known of presence:{session_id}")
        if subscription is None:
            await self._check(principal, channel)
        if typing is not None:
            if subscription is None:
                raise BadChannel("Subscribe to a session's presence before you type there")
            self._presence.types(channel.key, subscription, typing=typing)
        return await self._presence.users(channel.key)

    async def _check(self, principal: Principal, channel: Channel) -> Hidden:
        async with self._checks:
            return await self._access.check(principal, channel)

    async def _place(self, channel: Channel, wanted: Wanted) -> Position:
        if wanted.since is not None:
            return Position(wanted.since.epoch, wanted.since.seq)
        page = await self._reads.read(wanted.ch, Position("", 0), 0)
        if wanted.start == "now":
            return Position(page.epoch, page.top)
        if wanted.start == "earliest" and channel.kind is ChannelKind.EXECUTION:
            return await oldest(self._reads, wanted.ch, page)
        count = page.top if wanted.start == "earliest" else int(wanted.start.removeprefix("last:"))
        return Position(page.epoch, max(page.top - count, page.floor - 1))

    def _source(
        self, channel: Channel, name: str, since: Position, news: Callable[[], None]
    ) -> AbstractAsyncContextManager[Source]:
        if channel.kind is ChannelKind.EXECUTION:
            return self._streams.reading(UUID(channel.key), since, self._reads, news)
        return following(self._log, name, since, reads=self._reads, news=news)


def _parsed(name: str) -> Channel:
    try:
        return parse(name)
    except ValueError:
        raise BadChannel("This is no name of a channel") from None
