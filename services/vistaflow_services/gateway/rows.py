"""Rows of results, datasets and designs in a format of the caller's choice.

The format is the end of the path (`/v1/queries/ID/rows.csv`) or, without one, what `Accept` says.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from vistaflow_services.gateway.answers import HttpError
from vistaflow_services.gateway.gate import Streaming, held
from vistaflow_services.gateway.messages import message_from, to_json, values_of
from vistaflow_services.gateway.upstream import METHODS, Upstream

MEDIA_TYPES: Final = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
"""By the ends of paths."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An RPC that streams rows."""

    method: str
    key: str
    """Its field for what is in the path."""
    format: str
    """Its field for the format."""
    formats: dict[str, str]
    """Values of that field by the ends of paths."""


RESULTS: Final = Source(
    method="vistaflow.api.query.v1.QueryService/FetchResult",
    key="query_id",
    format="format",
    formats={
        "json": "RESULT_FORMAT_JSON_OBJECTS",
        "csv": "RESULT_FORMAT_CSV",
        "ndjson": "RESULT_FORMAT_JSON_OBJECTS",
        "arrow": "RESULT_FORMAT_ARROW",
        "parquet": "RESULT_FORMAT_PARQUET",
    },
)
DATASETS: Final = Source(
    method="vistaflow.api.ingestion.v1.IngestionService/ReadDataset",
    key="dataset",
    format="encoding",
    formats={
        "json": "ROW_ENCODING_JSON",
        "csv": "ROW_ENCODING_CSV",
        "ndjson": "ROW_ENCODING_JSON",
        "arrow": "ROW_ENCODING_ARROW",
        "parquet": "ROW_ENCODING_PARQUET",
    },
)
DESIGNS: Final = Source(
    method="vistaflow.api.doe.v1.DoeService/ReadDesign",
    key="design_id",
    format="format",
    formats={
        "json": "ROW_FORMAT_ROWS",
        "csv": "ROW_FORMAT_CSV",
        "ndjson": "ROW_FORMAT_ROWS",
        "parquet": "ROW_FORMAT_PARQUET",
    },
)


class Rows:
    """Serves rows.

    Args:
        upstream: The services.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def endpoint(self, source: Source) -> Any:
        """Answers requests for the rows of a source."""

        async def read(request: Request) -> Response:
            name, suffix = request.path_params["key"], format_of(request, source)
            parameters = request.query_params.multi_items()
            return await self.answer(request, source, name, suffix, parameters)

        return read

    async def answer(
        self,
        request: Request,
        source: Source,
        name: str,
        suffix: str,
        parameters: list[tuple[str, str]],
    ) -> Response:
        """Streams all rows.

        Args:
            request: The request.
            source: Where they are.
            name: What is read.
            suffix: The format.
            parameters: Fields of the RPC, such as `offset` and `limit`.
        """
        method = METHODS[source.method]
        values = values_of(method.input_type, parameters)
        values |= {source.key: name, source.format: source.formats[suffix]}
        message = message_from(method.input_type, values)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(held(request))
            parts = await self._upstream.messages(method, message, stack)
            blocks = _blocks(parts)
            return Streaming(
                _array(blocks) if suffix == "json" else blocks,
                stack.pop_all(),
                media_type=MEDIA_TYPES[suffix],
                headers={
                    "content-disposition": attachment(f"{name}.{suffix}"),
                    "cache-control": "no-store",
                },
            )
        raise AssertionError("unreachable")


def format_of(request: Request, source: Source, default: str = "json") -> str:
    """The format that a request asks for.

    Raises:
        HttpError: The source has none of those.
    """
    suffix = request.path_params.get("suffix", "")
    suffixes = [suffix] if suffix else _accepted(request.headers.get("accept", "*/*"), default)
    for name in suffixes:
        if name in source.formats:
            return name
    raise HttpError(
        406, f"this is served as {', '.join(source.formats)}; end the path with one of them",
        reason="FORMAT",
    )  # fmt: skip


def _accepted(accept: str, default: str) -> list[str]:
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    by_type = {text.partition(";")[0]: name for name, text in MEDIA_TYPES.items()}
    names = [by_type[kind] for kind in kinds if kind in by_type]
    return [*names, *([default] if {"*/*", "application/*"} & set(kinds) else [])]


def attachment(name: str) -> str:
    """The header that makes a browser save an answer under a name."""
    plain = re.sub(r"[^A-Za-z0-9._@-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def _blocks(parts: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async for part in parts:
        if part.data:
            yield part.data
        # Of designs, whose rows are messages.
        for row in getattr(part, "rows", ()):
            yield to_json(row).encode() + b"\n"


async def _array(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """One JSON array of lines of JSON, which have no line breaks inside."""
    before, ends = b"[", b""
    async for block in lines:
        body = block.rstrip(b"\n")
        yield before + ends.replace(b"\n", b",\n") + body.replace(b"\n", b",\n")
        before, ends = b"", block[len(body) :]
    yield before + b"]\n"
