"""A kit as one HTML file, as `vistaflow report` writes it."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from vistaflow._report import report
from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.gateway.gate import held
from vistaflow_services.gateway.rows import attachment
from vistaflow_services.gateway.upstream import METHODS, Upstream

_SERVICES: Final = {
    "registry": "vistaflow.api.registry.v1.RegistryService",
    "ml": "vistaflow.api.ml.v1.MlService",
    "optimize": "vistaflow.api.optimize.v1.OptimizeService",
}
_READ: Final = METHODS["vistaflow.api.artifacts.v1.ArtifactService/ReadArtifact"]


class Reports:
    """Serves reports.

    Args:
        upstream: The services.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def of_kit(self, request: Request) -> Response:
        """The report of a kit; with `?download=true` a browser saves it."""
        text = request.path_params["kit_id"]
        if not text.isdecimal() or not 0 < int(text) < 2**31:
            raise NotFoundError(f"there is no kit {text[:20]}")
        with held(request):
            content = await report(int(text), self._call, self._read)
        headers = {"cache-control": "no-store", "content-security-policy": _POLICY}
        if request.query_params.get("download") == "true":
            headers["content-disposition"] = attachment(f"kit-{text}.html")
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)

    async def _call(self, service: str, method: str, message: Any) -> Any:
        return await self._upstream.unary(METHODS[f"{_SERVICES[service]}/{method}"], message)

    async def _read(self, uri: str, most_bytes: int) -> bytes:
        content = bytearray()
        async with contextlib.AsyncExitStack() as stack:
            request = artifacts_pb2.ReadArtifactRequest(uri=uri, length=most_bytes + 1)
            try:
                async for part in await self._upstream.messages(_READ, request, stack):
                    content += part.data
            except Exception as error:
                raise ValueError(uri) from error
        if len(content) > most_bytes:
            raise ValueError(uri)
        return bytes(content)


_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
