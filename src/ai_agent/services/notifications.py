"""What applications tell users and topics, and what became of it."""

import time
from datetime import timedelta
from uuid import UUID

from ai_agent.domain.channels import SYSTEM, ChannelKind, parse, queue_of, session_channel
from ai_agent.domain.errors import FieldError, InvalidFields, NotFound
from ai_agent.domain.event_data import NotificationData
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.fields import StoredJson, new_id, now, to_json
from ai_agent.domain.identity import Principal, Scope
from ai_agent.domain.inbox import Envelope, EventDelivery, EventDeliveryStatus, Lane, Notify, PublishEvent
from ai_agent.realtime.application_events import EVENT_BYTES
from ai_agent.realtime.publisher import Publisher
from ai_agent.storage import inbox, outbox, sessions
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.inbox import Record


class NotificationService:
    def __init__(self, database: Database, publisher: Publisher):
        self._database = database
        self._publisher = publisher

    async def notify(self, principal: Principal, wanted: Notify) -> UUID:
        """Accepts what is said to a user, a session or everyone. Raises NotFound, InvalidFields for too much."""
        said = _bounded(to_json(NotificationData(wanted.title, wanted.body, wanted.data)))
        expires_at = None if wanted.expires_in is None else now() + timedelta(seconds=wanted.expires_in)
        envelope = Envelope(wanted.lane, said, principal.subject, expires_at)
        async with self._database.unit_of_work() as rows:
            if wanted.to.everyone:
                event = _event(EventType.NOTIFICATION, said)
                self._publisher.put(rows, SYSTEM, event)
                return event.eid
            event = _event(EventType.NOTIFICATION, to_json(envelope))
            user = wanted.to.user_id
            if user is None:
                assert wanted.to.session_id is not None  # noqa: S101  # one of the three is named
                user = await self._owner(rows, principal, wanted.to.session_id)
                live = NewEvent(event.type, said, event.eid, event.ts)
                self._publisher.put(rows, session_channel(wanted.to.session_id), live)
            self._publisher.put(rows, queue_of(user), event)
            return event.eid

    async def publish(self, topic: str, wanted: PublishEvent) -> UUID:
        """Accepts an event for all who listen to a topic. Raises InvalidFields for what is too long, NotFound."""
        channel = f"{ChannelKind.TOPIC}:{topic}"
        try:
            parse(channel)
        except ValueError:
            raise NotFound("There can be no topic of this name") from None
        event = _event(wanted.type, _bounded(to_json(wanted.data)))
        async with self._database.unit_of_work() as rows:
            self._publisher.put(rows, channel, event)
        return event.eid

    async def delivery(self, principal: Principal, eid: UUID) -> EventDelivery:
        """What became of an event of a queue, for whoever sent it or gets it. Raises NotFound."""
        # In the order in which it moves, so that it is not missed between the two.
        found = await outbox.queued(self._database.reader, eid) or await inbox.record(self._database.reader, eid)
        if found is None or principal.subject not in {found.user_id, found.sender}:
            raise NotFound("There is no such event in a user's queue")
        return _delivery(found) if isinstance(found, Record) else found.delivery

    async def _owner(self, rows: Connection, principal: Principal, session_id: UUID) -> str:
        owner = await sessions.owner(rows, session_id)
        if owner is None or not (owner == principal.subject or principal.may(Scope.ADMIN)):
            raise NotFound("Session not found")
        return owner


def _event(kind: str, data: StoredJson) -> NewEvent:
    return NewEvent(kind, data, new_id(), time.time_ns() // 1_000_000)


def _bounded(data: StoredJson) -> StoredJson:
    if len(bytes(data)) > EVENT_BYTES:
        raise InvalidFields([FieldError("data", f"An event holds {EVENT_BYTES} bytes of JSON at most")])
    return data


def _delivery(found: Record) -> EventDelivery:
    return EventDelivery(
        eid=found.eid,
        status=_status(found),
        type=found.type,
        user_id=found.user_id,
        lane=Lane(found.lane),
        seq=found.seq,
        accepted_at=found.created_at,
        stored_at=found.stored_at,
        sent_at=found.sent_at,
        tries=found.tries,
        acknowledged_at=found.acked_at,
        acknowledged_by=found.acked_by,
        expires_at=found.expires_at,
        dead_at=found.dead_at,
    )


def _status(found: Record) -> EventDeliveryStatus:
    if found.acked_at is not None:
        return EventDeliveryStatus.ACKNOWLEDGED
    if found.dead_at is not None:
        return EventDeliveryStatus.DEAD
    if found.expires_at is not None and found.expires_at <= now():
        return EventDeliveryStatus.EXPIRED
    return EventDeliveryStatus.SENT if found.tries else EventDeliveryStatus.STORED
