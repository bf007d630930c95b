"""Calls of the asynchronous client that collect pages from the web."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from vistaflow._rpc.messages import is_number, listed, message_of
from vistaflow.aio._artifacts import JOBS, ArtifactCalls
from vistaflow.aio._data.import_specs import built_message, number_of_word
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.errors import FailedPreconditionError, InvalidArgumentError, invalid
from vistaflow.models import Job, job_of

LISTS: Final = ("parts.json", "pages.jsonl")
"""The lists of the parts and of the pages, beside the parts."""

MessageT = TypeVar("MessageT", bound=Message)


class CollectionCalls(ArtifactCalls):
    """The methods of a client that collect pages."""

    async def collect_pages(
        self,
        urls: str | Sequence[str] = (),
        *,
        pages: str | Mapping[str, Any] | None = None,
        html: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        name: str = "",
        format: str = "",
        max_pages: int = 0,
        max_page_bytes: int = 0,
        max_failed_share: float | None = None,
        delay: float = 0.0,
        request_id: str = "",
    ) -> Job:
        """Starts collecting pages from the web; returns at once.

        Args:
            urls: Pages to begin with.
            pages: Instead, numbered pages: an address with `{page}`, or a mapping with `url`,
                `first` and `last`.
            html: `rows`, `columns` and `next`: CSS selectors. A column is a selector or a mapping
                with `selector`, `attribute`, `type` (`text`, `number`, `url` or `page`), `pattern`
                and `optional`, by its name.
            json: `records`, `columns`, `next`, `next_parameter`, `next_link`: paths of fields.
            name: A name by which the next collection asks for changed pages only.
            format: How rows are written: `json` or `parquet`.
            max_pages: Most pages; 1,000 if 0.
            max_page_bytes: Largest page; 10,000,000 if 0.
            max_failed_share: Share of the pages that may fail; 0.1 if None.
            delay: Least seconds between two requests to one host.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The job. Once it is finished, its result counts the pages and rows, and
            `import_dataset(name, job)` imports the rows.
        """
        if isinstance(pages, str):
            pages = {"url": pages}
        if not is_number(delay) or not 0 <= delay <= 10**6:
            raise invalid("delay", f"is {delay!r}; give seconds")
        spec = message_of(
            ingestion_pb2.CollectSpec,
            name=name,
            urls=[urls] if isinstance(urls, str) else listed(urls, "urls"),
            max_pages=max_pages,
            max_page_bytes=max_page_bytes,
            max_failed_share=max_failed_share,
        )
        if format:
            number = number_of_word(ingestion_pb2.RowFormat, "ROW_FORMAT_", format, "format")
            spec.format = ingestion_pb2.RowFormat.ValueType(number)
        spec.delay.FromMilliseconds(round(delay * 1_000))
        if pages is not None:
            if not isinstance(pages, Mapping):
                raise invalid("pages", f"{pages!r} is neither an address nor a mapping")
            spec.pages.CopyFrom(built_message(ingestion_pb2.PageNumbers, "pages.", **pages))
        if html is not None and json is not None:
            raise invalid("json", "is given beside html; give one of both")
        if html is not None:
            spec.html.CopyFrom(rows_message(ingestion_pb2.HtmlRows, html, "html"))
        if json is not None:
            spec.json.CopyFrom(rows_message(ingestion_pb2.JsonRows, json, "json"))
        request = message_of(ingestion_pb2.CollectPagesRequest, request_id=request_id, spec=spec)
        return job_of((await self._call("ingestion", "CollectPages", request)).job)

    async def download_collection(
        self, job: Job | str, folder: str | os.PathLike[str]
    ) -> list[Path]:
        """Copies the rows of a finished collection and the list of its pages to this machine.

        Args:
            job: The job, or its id.
            folder: Where to; made if it is not there.

        Returns:
            The parts with rows, then `parts.json` and `pages.jsonl`.

        Raises:
            FailedPreconditionError: It has not finished.
        """
        if not isinstance(folder, str | os.PathLike):
            raise invalid("folder", f"{folder!r} is no path")
        job_id = job.job_id if isinstance(job, Job) else job
        if not isinstance(job_id, str):
            raise invalid("job", f"{job_id!r} is no job")
        prefix = f"{JOBS}{job_id}/collection"
        try:
            parts = _parts(await self.read_artifact(f"{prefix}/parts.json"))
        except (ValueError, LookupError, TypeError) as error:
            if isinstance(error, InvalidArgumentError):
                raise
            raise FailedPreconditionError(
                f"job {job_id} has no list of its parts", reason="UNREADABLE_RESULT"
            ) from None
        try:
            await asyncio.to_thread(os.makedirs, folder, exist_ok=True)
        except OSError as error:
            raise invalid("folder", f"{folder} cannot be made: {error.strerror}") from error
        return [
            await self._download(f"{prefix}/{name}", Path(folder) / name, sha256)
            for name, sha256 in [*parts, *((name, "") for name in LISTS)]
        ]


def _parts(content: bytes) -> list[tuple[str, str]]:
    """The names of the parts, which lead out of no folder, and their hashes."""
    entries = json.loads(content)["parts"]
    return [(PurePath(entry["name"]).name, str(entry["sha256"])) for entry in entries]


def rows_message(kind: type[MessageT], fields: Any, path: str) -> MessageT:
    """Where rows are, with their columns by name."""
    if not isinstance(fields, Mapping):
        raise invalid(path, f"{fields!r} is no mapping")
    columns = fields.get("columns") or {}
    if not isinstance(columns, Mapping):
        raise invalid(f"{path}.columns", "is no mapping from names to selectors")
    messages = []
    for index, (name, column) in enumerate(columns.items()):
        values = dict(column) if isinstance(column, Mapping) else {"selector": column}
        place = f"{path}.columns[{index}]."
        if "type" in values:
            values["type"] = number_of_word(
                ingestion_pb2.PageValue, "PAGE_VALUE_", values["type"], f"{place}type"
            )
        messages.append(built_message(ingestion_pb2.PageColumn, place, **{**values, "name": name}))
    return built_message(kind, f"{path}.", **{**fields, "columns": messages})
