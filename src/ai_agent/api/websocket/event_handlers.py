"""What is done for each kind of frame."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from ai_agent.api.websocket.auth import Login
from ai_agent.api.websocket.channels import Wanted
from ai_agent.api.websocket.credential_review import renew
from ai_agent.api.websocket.errors import AlreadyConnected, AlreadySubscribed, BadChannel, LimitReached
from ai_agent.api.websocket.queue_subscription import QueueSubscription
from ai_agent.api.websocket.subscriptions import Subscription
from ai_agent.domain.errors import AIAgentError, AuthenticationError, AuthorizationError
from ai_agent.domain.frames import (
    SUBSCRIPTIONS,
    Ack,
    Auth,
    Call,
    Connect,
    History,
    Limits,
    Nack,
    Pong,
    Presence,
    Reply,
    Resume,
    Resumed,
    Since,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from ai_agent.domain.frames import Heartbeat as HeartbeatTimes
from ai_agent.domain.identity import Principal
from ai_agent.observability.realtime_metrics import RECOVERIES

if TYPE_CHECKING:
    from ai_agent.api.websocket.connection import Connection


async def connect(connection: "Connection", frame: Connect) -> None:
    """Opens the conversation: who it is, and what it was subscribed to before."""
    if connection.is_open:
        raise AlreadyConnected("The conversation is open already")
    try:
        connection.authenticated(await _login(connection, frame))
        connection.client, connection.batch = frame.client, "batch" in frame.caps
        await connection.rooms.manager.add(connection)
    except AIAgentError as error:
        connection.turn_away(error, frame.id)
        return
    connection.is_open = True
    resumed = await asyncio.gather(*[_resume(connection, entry) for entry in frame.resume])
    connection.put(_welcome(connection, frame, [told for told, _ in resumed]))
    for _, subscription in resumed:
        if subscription is not None:
            subscription.start()
    connection.heartbeat.start()
    connection.expiry.watch(connection.principal.expires_at)
    if connection.joins is not None:
        await _join(connection, connection.joins)


async def _login(connection: "Connection", frame: Connect) -> Login:
    if frame.token is not None:
        return await connection.rooms.authenticator.verify(frame.token, connection.address)
    if connection.upgraded is None:
        raise AuthenticationError
    return connection.upgraded


def _welcome(connection: "Connection", frame: Connect, resumed: list[Resumed]) -> Welcome:
    heartbeat = connection.heartbeat
    return Welcome(
        id=_id(frame.id),
        conn=connection.conn_id,
        user=connection.principal.subject,
        node=connection.rooms.manager.node,
        heartbeat=HeartbeatTimes(int(heartbeat.ping_seconds * 1000), int(heartbeat.pong_seconds * 1000)),
        expires_at=_ends(connection.principal),
        limits=Limits(),
        resumed=resumed,
    )


async def _resume(connection: "Connection", entry: Resume) -> tuple[Resumed, Subscription | None]:
    try:
        subscription, told = await _subscribed(connection, Wanted(entry.ch, Since(entry.seq, entry.epoch)))
    except AIAgentError as error:
        return Resumed(entry.ch, recovered=False, code=error.code), None
    return Resumed(entry.ch, told.recovered, told.epoch, told.seq, told.top, told.floor), subscription


async def _join(connection: "Connection", channel: str) -> None:
    if channel in connection.subscriptions:
        return
    try:
        await subscribe(connection, Subscribe(ch=channel))
    except AIAgentError as error:
        connection.refuse(error, channel=channel)


async def subscribe(connection: "Connection", frame: Subscribe) -> None:
    wanted = Wanted(frame.ch, frame.since, frame.from_ or "now", frame.on_gap, frame.types)
    subscription, told = await _subscribed(connection, wanted)
    told.id = _id(frame.id)
    connection.put(told)
    subscription.start()


async def _subscribed(connection: "Connection", wanted: Wanted) -> tuple[Subscription, Subscribed]:
    known = connection.subscriptions
    if wanted.ch in known:
        raise AlreadySubscribed("There is a subscription to this channel already")
    if len(known) >= SUBSCRIPTIONS:
        raise LimitReached(f"A connection has up to {SUBSCRIPTIONS} subscriptions")
    known[wanted.ch] = None  # Kept free, for what comes meanwhile.
    principal = connection.principal
    try:
        made = await connection.rooms.channels.subscribe(principal, wanted, connection.ready, _client(connection))
        if connection.principal is not principal:  # The review of others has passed over this one.
            await _review(connection, made[0])
    except BaseException:
        del known[wanted.ch]
        raise
    known[wanted.ch] = made[0]
    if wanted.since is not None:
        RECOVERIES.labels(str(made[1].recovered).lower()).inc()
    connection.rooms.manager.changed(connection)
    return made


async def _review(connection: "Connection", subscription: Subscription) -> None:
    try:
        await connection.rooms.channels.review(connection.principal, subscription)
    except BaseException:
        await subscription.close()
        raise


async def unsubscribe(connection: "Connection", frame: Unsubscribe) -> None:
    await connection.unsubscribe(frame.ch, "requested", frame.id)


async def history(connection: "Connection", frame: History) -> None:
    channels = connection.rooms.channels
    page = await channels.history(connection.principal, frame.ch, frame.since, frame.limit)
    connection.put(Reply(id=_id(frame.id), data=page))


async def call(connection: "Connection", frame: Call) -> None:
    answer = await connection.rooms.calls.call(connection.principal, connection.scope, frame.method, frame.params)
    connection.put(Reply(id=_id(frame.id), data=answer))


async def auth(connection: "Connection", frame: Auth) -> None:
    """Renews the credentials in place."""
    login = await connection.rooms.authenticator.verify(frame.token, connection.address)
    if login.principal.subject != connection.principal.subject:
        raise AuthorizationError("Renew with credentials of the same owner, or connect anew")
    await renew(connection, login)
    connection.put(Reply(id=_id(frame.id), data={"expires_at": _ends(login.principal)}))
    # What was revoked since they were looked at was told to connections that had them by then.
    await connection.rooms.manager.review.look(connection)


def answered(connection: "Connection", frame: Pong) -> None:
    """An answer itself, which is answered only where it asks for that."""
    connection.heartbeat.answered()
    if frame.id is not None:
        connection.put(Reply(id=frame.id, data=None))


async def acknowledge(connection: "Connection", frame: Ack) -> None:
    """Takes events out of a queue."""
    count = await _queue(connection, frame.ch).acknowledge(frame.lane, frame.seq, frame.eids)
    if frame.id is not None:
        connection.put(Reply(id=frame.id, data={"acknowledged": count}))


async def refuse_event(connection: "Connection", frame: Nack) -> None:
    """Lets an event of a queue come again later."""
    waits = await _queue(connection, frame.ch).hold(frame.eid, frame.delay_ms / 1000)
    if frame.id is not None:
        connection.put(Reply(id=frame.id, data={"waiting": waits}))


def _queue(connection: "Connection", channel: str) -> QueueSubscription:
    subscription = connection.subscriptions.get(channel)
    if not isinstance(subscription, QueueSubscription):
        raise BadChannel("Subscribe to a user's queue before you acknowledge its events")
    return subscription


def _client(connection: "Connection") -> str:
    """By which a user knows their client."""
    named = ":".join(filter(None, (connection.client.name, connection.client.instance)))
    return named[:255] or connection.conn_id


async def presence(connection: "Connection", frame: Presence) -> None:
    """Answers who is in a session."""
    subscription = connection.subscriptions.get(frame.ch)
    users = await connection.rooms.channels.present(connection.principal, frame.ch, subscription, frame.typing)
    if frame.id is not None:
        connection.put(Reply(id=frame.id, data={"users": users}))


def _ends(principal: Principal) -> int | None:
    """In milliseconds since the epoch."""
    return None if principal.expires_at is None else int(principal.expires_at.timestamp() * 1000)


def _id(frame_id: int | None) -> int | UnsetType:
    return UNSET if frame_id is None else frame_id


Handler = Callable[["Connection", Any], Awaitable[None]]

HANDLERS: dict[type, Handler] = {
    Connect: connect,
    Subscribe: subscribe,
    Unsubscribe: unsubscribe,
    History: history,
    Call: call,
    Auth: auth,
    Ack: acknowledge,
    Nack: refuse_event,
    Presence: presence,
}
"""Pings and pongs are answered where they are read."""
