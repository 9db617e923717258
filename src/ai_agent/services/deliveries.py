"""Deliveries of webhooks, as their owner sees them. Sending them belongs to the worker's side."""

from uuid import UUID

from ai_agent.domain.deliveries import Delivery, DeliveryFilter, DeliveryPage
from ai_agent.domain.errors import Conflict, FieldError, InvalidFields, NotFound
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.execution.webhooks import Webhooks
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.webhook_signatures import WebhookSigner
from ai_agent.services.paging import Pager
from ai_agent.storage import deliveries, executions
from ai_agent.storage.database import Database


class DeliveryService:
    def __init__(self, database: Database, pager: Pager, webhooks: Webhooks, signer: WebhookSigner):
        self._database = database
        self._pager = pager
        self._webhooks = webhooks
        self._signer = signer

    async def list(self, principal: Principal, wanted: DeliveryFilter, request: PageRequest) -> DeliveryPage:
        """Raises NotFound when there is no such execution."""
        page = await self._pager.page(DeliveryPage, deliveries.LIST, principal.subject, wanted, request)
        if (
            not page.items
            and await executions.get(self._database.reader, principal.subject, wanted.execution_id) is None
        ):
            raise NotFound("Execution not found")
        return page

    async def resend(self, principal: Principal, execution_id: UUID, delivery_id: UUID) -> Delivery:
        """Sends a finished delivery again, under its old id. Raises NotFound, Conflict for one that is pending."""
        async with self._database.unit_of_work() as rows:
            begun = await deliveries.resend(rows, principal.subject, execution_id, delivery_id)
            if begun is None:
                if await deliveries.get(rows, principal.subject, execution_id, delivery_id) is None:
                    raise NotFound("Delivery not found")
                raise Conflict("The delivery is pending: it is tried again by itself")
            rows.after_commit(self._webhooks.wake)
        return begun

    def secret(self, principal: Principal) -> str:
        return self._signer.secret(principal.subject)


def check_callback(guard: OutboundGuard, url: str | None) -> None:
    """Raises InvalidFields for a `callback_url` that the server would not connect to."""
    if url is not None and (fault := guard.fault(url)):
        raise InvalidFields([FieldError("callback_url", fault)])
