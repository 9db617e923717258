"""Pages as responses."""

from typing import Any, TypeVar
from urllib.parse import urlencode

from litestar import Request, Response

from ai_agent.api.answers import Answer
from ai_agent.domain.pages import Page

PageType = TypeVar("PageType", bound=Page)


def linked(request: Request[Any, Any, Any], page: PageType) -> Response[PageType]:
    """The page with the address of the next one. Source: RFC 8288, "Web Linking"."""
    if page.next_cursor is None:
        return Answer(page)
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in {"cursor", "offset"}]
    query = urlencode([*kept, ("cursor", page.next_cursor)])
    return Answer(page, headers={"Link": f'<{request.scope["path"]}?{query}>; rel="next"'})
