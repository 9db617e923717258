"""The audit log, read; whoever acts writes it, in the transaction of the act."""

from ai_agent.domain.audit import AuditFilter, AuditPage
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.services.paging import Pager
from ai_agent.storage import audit


class AuditService:
    def __init__(self, pager: Pager):
        self._pager = pager

    async def list(self, principal: Principal, wanted: AuditFilter, request: PageRequest) -> AuditPage:
        return await self._pager.page(AuditPage, audit.LIST, principal.subject, wanted, request)
