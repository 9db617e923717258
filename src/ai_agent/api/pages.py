"""Pages as responses."""

from typing import Any, TypeVar
from urllib.parse import quote

from litestar import Request, Response

from ai_agent.api.answers import Answer
from ai_agent.domain.pages import Page

PageType = TypeVar("PageType", bound=Page)


def linked(request: Request[Any, Any, Any], page: PageType) -> Response[PageType]:
    """The page with the address of the next one. Source: RFC 8288, "Web Linking"."""
    if page.next_cursor is None:
        return Answer(page)
    given = request.scope["query_string"].decode("latin-1").split("&")
    kept = [part for part in given if part and part.partition("=")[0] not in {"cursor", "offset"}]
    query = quote("&".join([*kept, f"cursor={page.next_cursor}"]), safe="%&=+-._~:,;@!$'()*/?")
    return Answer(page, headers={"Link": f'<{request.scope["path"]}?{query}>; rel="next"'})
