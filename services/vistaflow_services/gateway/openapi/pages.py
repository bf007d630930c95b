"""Serves the document, and Swagger UI and Redoc.

Their scripts come with the package fastapi-offline, of which nothing else is used. They make
`style` elements, which the policy of these pages allows; scripts are those of the gateway only.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.gateway.answers import HttpError, unchanged

DOCUMENT: Final = Path(__file__).with_name("openapi.yaml")
PACKAGE: Final = "fastapi_offline"

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEAD: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>vistaflow: HTTP</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,">'
)
_SWAGGER: Final = f"""{_HEAD}<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="document"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script></html>"""
_REDOC: Final = f"""{_HEAD}<redoc spec-url="/openapi.json" disable-search></redoc>
<script src="/docs/redoc.standalone.js"></script></html>"""
_START: Final = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#document", deepLinking: true, docExpansion: "none", filter: true,
  tryItOutEnabled: true, validatorUrl: null,
});
"""
_LOGO: Final = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
"""A picture from elsewhere, which the policy of the pages does not let Redoc load."""

_FILES: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "redoc.standalone.js": "text/javascript",
}


def routes() -> list[Route]:
    """The paths of the document and its pages."""
    return [
        Route("/openapi.yaml", _yaml),
        Route("/openapi.json", _json),
        Route("/docs", _page(_SWAGGER)),
        Route("/redoc", _page(_REDOC)),
        Route("/docs/{file}", _file),
    ]


@functools.cache
def as_json() -> bytes:
    """The document as JSON."""
    import yaml

    document = yaml.load(DOCUMENT.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


async def _yaml(request: Request) -> Response:
    body = await asyncio.to_thread(DOCUMENT.read_bytes)
    return unchanged(request, Response(body, media_type="application/yaml"))


async def _json(request: Request) -> Response:
    body = await asyncio.to_thread(as_json)
    return unchanged(request, Response(body, media_type="application/json"))


def _page(text: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        _folder()
        headers = {"content-security-policy": _POLICY, "cache-control": "no-cache"}
        return HTMLResponse(text, headers=headers)

    return page


async def _file(request: Request) -> Response:
    name = request.path_params["file"]
    if name == "start.js":
        return Response(_START, media_type="text/javascript")
    if name not in _FILES:
        raise NotFoundError(f"there is nothing at {request.url.path[:200]}")
    headers = {"cache-control": "private, max-age=3600"}
    body = await asyncio.to_thread((_folder() / name).read_bytes)
    return Response(body.replace(_LOGO, b"data:,"), media_type=_FILES[name], headers=headers)


def _folder() -> Path:
    """Where the scripts are; the package itself, which needs FastAPI, is not imported.

    Raises:
        HttpError: They are not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise HttpError(
            501, "the scripts of this page are not installed: pip install 'vistaflow[gateway]'; "
            "the document is at /openapi.yaml", reason="PAGES_MISSING",
        )  # fmt: skip
    return Path(spec.origin).parent / "static"
