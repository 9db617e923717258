"""Pages as responses."""

import re
from typing import Any, TypeVar
from urllib.parse import quote

from litestar import Request, Response

from ai_agent.api.answers import Answer
from ai_agent.domain.pages import Page

_SAFE = "%&=+-._~:,;@!$'()*/?"
_QUOTED = re.compile(f"[A-Za-z0-9{re.escape(_SAFE)}]*")

PageType = TypeVar("PageType", bound=Page)


def linked(request: Request[Any, Any, Any], page: PageType) -> Response[PageType]:
    """The page with the address of the next one. Source: RFC 8288, "Web Linking"."""
    if page.next_cursor is None:
        return Answer(page)
    given = request.scope["query_string"].decode("latin-1").split("&")
    kept = [part for part in given if part and part.partition("=")[0] not in {"cursor", "offset"}]
    query = "&".join([*kept, f"cursor={page.next_cursor}"])
    if not _QUOTED.fullmatch(query):
        query = quote(query, safe=_SAFE)
    return Answer(page, headers={"Link": f'<{request.scope["path"]}?{query}>; rel="next"'})
