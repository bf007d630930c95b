"""What a collection gathered as inputs of a conversion: its rows, or its pages as they came.

A result of a job may have been written by hand: files are read only where the job itself wrote.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.errors import ConflictError, NotFoundError, field_error
from vistaflow_services.core.results import JobResult, readable
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.ingestion.datasets.row_sources import own_uri, plain_name
from vistaflow_services.pages.contents import opened
from vistaflow_services.pages.folder import CONTENT, PARTS
from vistaflow_services.pages.plan import PAGES, read_pages
from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.tables.sources import Aes, Source

FIELD: Final = "collection"

OpenPage = Callable[[str], BinaryIO]
"""Opens a page by its SHA-256."""


def page_opener(store: BlobStore, folder: Path) -> OpenPage:
    """Opens pages that are in the stores.

    Args:
        store: The stores.
        folder: For temporary files.
    """
    return functools.partial(opened, store, folder=folder)


def page_of(artifacts: Path, parts: Sequence[str]) -> str:
    """The SHA-256 of the page that a path of the artifact store means; empty if it means none.

    Only a page that the manifest of this very collection names: to know a hash is no right to read
    what others have stored.
    """
    jobs, job_id, *rest = parts if len(parts) > 1 else ("", "")
    if (jobs, rest[:2]) != ("jobs", ["collection", CONTENT]):
        return ""
    sha256 = "".join(rest[2:])
    with suppress(OSError, ValueError, TypeError):
        for page in read_pages(artifacts / "jobs" / job_id / "collection" / PAGES):
            if page.sha256 == sha256:
                return sha256
    return ""


def collected_sources(
    spec: pb.CollectedJson,
    job: JobResult,
    artifacts: ArtifactStore,
    open_page: OpenPage,
    aes: Aes | None = None,
) -> list[Source]:
    """The inputs that a request names, in the order of the pages.

    Args:
        spec: What is read of the collection.
        job: The COLLECT job and its result.
        artifacts: Where its files are.
        open_page: Opens one of its pages.
        aes: The key of its pages, if they are encrypted.

    Raises:
        InvalidError: Its rows are not JSON.
        ConflictError: There is nothing to read, or its result cannot be read.
        NotFoundError: Its files are not there any more.
    """
    with readable(job.job_id, FIELD):
        folder = artifacts.existing(own_uri(job.result["result_path"], job.job_id))
        sources = list(_pages(folder, open_page, aes) if spec.pages else _rows(folder))
    if not sources:
        hint = "collect again" if spec.pages else "set `pages` to read its pages as they are"
        raise ConflictError(
            f"{FIELD}: collection {job.job_id} has no {'pages' if spec.pages else 'rows'}; {hint}",
            reason="NOTHING_COLLECTED",
        )
    return sources


def _rows(folder: Path) -> Iterator[Source]:
    for part in json.loads((folder / PARTS).read_bytes())["parts"]:
        path = folder / plain_name(part["name"])
        if path.suffix != ".jsonl":
            raise field_error(
                FIELD, "has its rows as Parquet; import them, or collect with `format: json`"
            )
        yield Source(
            name=path.name,
            open=functools.partial(_opened_part, path),
            size=part["size_bytes"],
            version=part["sha256"],
        )


def _opened_part(path: Path) -> BinaryIO:
    return path.open("rb")


def _pages(folder: Path, open_page: OpenPage, aes: Aes | None) -> Iterator[Source]:
    for page in read_pages(folder / PAGES):
        if page.sha256 and not page.error:
            yield Source(
                name=page.url[:1_000],
                open=functools.partial(_opened, open_page, page.sha256, page.url[:1_000]),
                size=page.bytes,
                aes=aes,
                version=page.sha256,
            )


def _opened(open_page: OpenPage, sha256: str, url: str) -> BinaryIO:
    try:
        return open_page(sha256)
    except NotFoundError:
        raise NotFoundError(
            f"{FIELD}: the page {url} is not there any more; collect again"
        ) from None
