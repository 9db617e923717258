"""`/notifications`, `/topics/{name}/events` and `/events/{eid}/delivery`."""

from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.openapi import may_answer
from ai_agent.domain.identity import Scope
from ai_agent.domain.inbox import Accepted, EventDelivery, Notify, PublishEvent
from ai_agent.services.notifications import NotificationService


class NotificationController(Controller):
    tags = ["Notifications"]

    @post("/notifications", status_code=202, opt=needs(Scope.NOTIFICATIONS_WRITE) | may_answer(404))
    async def notify_user(
        self, request: Caller, data: JSONBody[Notify], notifications: NamedDependency[NotificationService]
    ) -> Accepted:
        """Notify a user

        Goes into the user's queue, where it waits until one of their clients acknowledges it on `user:{user_id}`: also
        while they are away. To a session means to its owner's queue, and at once to all who watch the session. To
        everyone means to whoever listens to `system` at the moment, or comes back within a day; that is not queued.
        """
        return Accepted(await notifications.notify(request.user, data))

    @post("/topics/{name:str}/events", status_code=202, opt=needs(Scope.TOPICS_PUBLISH) | may_answer(404))
    async def publish_event(
        self, name: FromPath[str], data: JSONBody[PublishEvent], notifications: NamedDependency[NotificationService]
    ) -> Accepted:
        """Publish an event

        To all who are subscribed to `topic:{name}`, and for an hour to who subscribes behind a position. It is kept
        before this is answered.
        """
        return Accepted(await notifications.publish(name, data))

    @get("/events/{eid:uuid}/delivery", opt=needs(Scope.NOTIFICATIONS_WRITE))
    async def get_delivery(
        self, request: Caller, eid: FromPath[UUID], notifications: NamedDependency[NotificationService]
    ) -> EventDelivery:
        """Get the delivery of an event

        Of an event of a user's queue, for whoever sent it and its user: whether it was stored, sent, and acknowledged,
        and by which client. It is known as long as the queue keeps it, a week at most.
        """
        return await notifications.delivery(request.user, eid)
