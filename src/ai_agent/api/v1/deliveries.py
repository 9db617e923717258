"""`/executions/{execution_id}/deliveries` and `/webhook-secret`."""

from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.openapi import may_answer
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.domain.deliveries import Delivery, DeliveryFilter, DeliveryPage, WebhookSecret
from ai_agent.domain.identity import Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.services.deliveries import DeliveryService


class DeliveryController(Controller):
    tags = ["Webhooks"]

    @get("/executions/{execution_id:uuid}/deliveries", opt=needs(Scope.AGENTS_EXECUTE))
    async def list_deliveries(
        self,
        request: Caller,
        execution_id: FromPath[UUID],
        deliveries: NamedDependency[DeliveryService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_order: SortOrder = "desc",
    ) -> Response[DeliveryPage]:
        """List the deliveries of an execution

        What was sent to its `callback_url`, and what came of it. None before it has ended.
        """
        page = PageRequest(limit, cursor, offset, include_total, "created_at", sort_order == "desc")
        return linked(request, await deliveries.list(request.user, DeliveryFilter(execution_id=execution_id), page))

    @post(
        "/executions/{execution_id:uuid}/deliveries/{delivery_id:uuid}/resend",
        status_code=202,
        opt=needs(Scope.AGENTS_EXECUTE) | may_answer(409),
    )
    async def resend_delivery(
        self,
        request: Caller,
        execution_id: FromPath[UUID],
        delivery_id: FromPath[UUID],
        deliveries: NamedDependency[DeliveryService],
    ) -> Delivery:
        """Send a delivery again

        The same message under the same `webhook-id`, with as many attempts as at first. One that is pending is 409:
        it is tried again by itself.
        """
        return await deliveries.resend(request.user, execution_id, delivery_id)

    @get("/webhook-secret", opt=needs(Scope.AGENTS_EXECUTE))
    async def get_webhook_secret(self, request: Caller, deliveries: NamedDependency[DeliveryService]) -> WebhookSecret:
        """Get the webhook secret

        Verifies what is sent to any `callback_url` of the caller, as Standard Webhooks has it: `webhook-signature`
        holds `v1,<base64>`, the HMAC-SHA-256 of `<webhook-id>.<webhook-timestamp>.<body>` under the decoded secret.
        It changes with the server's secret key; while the old key is kept, there is a signature of each, with a space
        between.
        """
        return WebhookSecret(deliveries.secret(request.user))
