"""`/openapi.json`, `/openapi.yaml`, `/asyncapi.json`, `/docs`: public, made of what this server has itself."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from litestar import Controller, Litestar, Request, Response, get
from litestar.params import FromPath

from ai_agent.api.answers import JSON
from ai_agent.api.guards import PUBLIC
from ai_agent.domain.errors import NotFound

YAML = "application/yaml"

_UI = Path(__file__).parent / "ui"
_PAGE = "index.html"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

_HEADERS = {
    # The page makes its own styles; scripts and requests are this server's only.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "public, max-age=3600",
}


class DocumentController(Controller):
    opt = PUBLIC

    @get("/openapi.json")
    async def get_openapi_json(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        return Response(as_json(request.app), media_type=JSON)

    @get("/openapi.yaml")
    async def get_openapi_yaml(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        return Response(as_yaml(request.app), media_type=YAML)

    @get("/asyncapi.json")
    async def get_asyncapi_json(self) -> Response[bytes]:
        return Response(asyncapi_json(), media_type=JSON)

    @get("/docs")
    async def get_docs(self) -> Response[bytes]:
        return _file(_PAGE)

    @get("/docs/{name:str}")
    async def get_docs_file(self, name: FromPath[str]) -> Response[bytes]:
        return _file(name)


@cache
def as_json(app: Litestar) -> bytes:
    """The document, made when it is first asked for: no start and no other request pays for it."""
    from ai_agent.api.openapi.document import openapi

    return _indented(openapi(app))


@cache
def asyncapi_json() -> bytes:
    from ai_agent.api.asyncapi.document import asyncapi

    return _indented(asyncapi())


@cache
def as_yaml(app: Litestar) -> bytes:
    import yaml

    document = msgspec.json.decode(as_json(app))
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120, encoding="utf-8")


def _indented(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


@cache
def _file(name: str) -> Response[bytes]:
    """Raises NotFound for what is no file of the page."""
    path = next((path for path in _UI.iterdir() if path.name == name and path.suffix in _MEDIA_TYPES), None)
    if path is None:
        raise NotFound("There is nothing at this address")
    return Response(path.read_bytes(), media_type=_MEDIA_TYPES[path.suffix], headers=_HEADERS)
