"""The page's files over HTTP: compressed at build time, kept by browsers by their hash."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from vistaflow_services.core.errors import NotFoundError

BUILT: Final = Path(__file__).parent / "built"

VIEWS: Final = ("kits", "sql", "data", "services")
"""First parts of the addresses that the page shows."""

MISSING: Final = (
    "The page is not built: run `make web`, which needs Node or the means to install it. "
    "Everything else works; GET /v1 lists the paths.\n"
)

_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_CODINGS: Final = (("br", ".br"), ("gzip", ".gz"))


class Page:
    """Serves the page.

    Args:
        folder: What the build made.
    """

    def __init__(self, folder: Path = BUILT) -> None:
        self._folder = folder

    async def index(self, request: Request) -> Response:
        """The document, the same for each address: its script shows what the address names."""
        if not (self._folder / "index.html").is_file():
            return PlainTextResponse(MISSING, 503)
        return self._file(request, "index.html", "no-cache")

    async def asset(self, request: Request) -> Response:
        """A file with a hash in its name.

        Raises:
            NotFoundError: There is no such file, as of another version.
        """
        name = request.path_params["name"]
        if "/" in name or name.startswith(".") or not (self._folder / "assets" / name).is_file():
            raise NotFoundError("this version of the page has no such file; load the page again")
        return self._file(request, f"assets/{name}", "public, max-age=31536000, immutable")

    def _file(self, request: Request, name: str, caching: str) -> Response:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {
            "cache-control": caching,
            "vary": "accept-encoding",
            "content-security-policy": _POLICY,
            # Requests that change something name their origin, which the door looks at.
            "referrer-policy": "same-origin",
        }
        file = self._folder / name
        accepted = request.headers.get("accept-encoding", "")
        for coding, suffix in _CODINGS:
            packed = file.with_name(file.name + suffix)
            if coding in accepted and packed.is_file():
                headers["content-encoding"] = coding
                file = packed
                break
        return Response(file.read_bytes(), media_type=kind, headers=headers)
