"""The files of a query's tables on this machine, for the engine.

The process of the engine has neither network nor credentials, so what is elsewhere is downloaded
here before. Files in folders are read where they are. A file that is not the one any more that was
found when the query was submitted ends the query.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistaflow_services.core import config as configuration
from vistaflow_services.core.errors import ExhaustedError, NotFoundError, ServiceError
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.uris import DOWNLOADS, SCHEME
from vistaflow_services.query.engines.contract import DataFile, SourceTable
from vistaflow_services.query.tables.cache import DownloadCache
from vistaflow_services.query.tables.catalog import BLOB, FoundFile, FoundTable
from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.stores.inputs import local_file
from vistaflow_services.stores.listing import ListedFile, is_unchanged
from vistaflow_services.stores.opening import declared_stores
from vistaflow_services.stores.roots import Roots


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where files of tables are."""

    artifacts: ArtifactStore
    roots: Roots
    blobs: BlobStore
    project: str
    """Whose roots are read."""

    max_bytes: int
    """Most bytes that are downloaded for one query."""

    cache: DownloadCache
    """Files of data roots that are in buckets."""

    @classmethod
    def of_environment(
        cls, artifacts: ArtifactStore, project: str, max_bytes: int, cache_bytes: int
    ) -> Places:
        """The places that the operator has declared."""
        return cls(
            artifacts=artifacts,
            roots=Roots.parse(configuration.data_roots()),
            blobs=declared_stores(
                configuration.stores(),
                configuration.copies(),
                default=artifacts.root / "blobs",
            ),
            project=project,
            max_bytes=max_bytes,
            cache=DownloadCache(artifacts.root / DOWNLOADS, cache_bytes),
        )


@contextlib.contextmanager
def local_tables(
    tables: Sequence[FoundTable],
    relations: Sequence[tuple[str, ...]],
    places: Places,
    scratch: Path,
) -> Iterator[tuple[SourceTable, ...]]:
    """Tables with their files on this machine, until the block ends.

    Args:
        tables: What was found when the query was submitted.
        relations: What the converted SQL calls each.
        places: Where their files are.
        scratch: An existing folder for downloads.

    Raises:
        NotFoundError: A file is gone, or is another one by now.
        ExhaustedError: There is more to download than `Places.max_bytes`.
    """
    size = sum(file.size for table in tables for file in table.files if _is_remote(file, places))
    if size > places.max_bytes:
        raise ExhaustedError(
            f"the query reads {size:,} bytes of buckets, and {places.max_bytes:,} may be "
            "downloaded; read fewer partitions",
            reason="QUERY_DISK",
        )
    with contextlib.ExitStack() as stack:
        yield tuple(
            SourceTable(
                relation=relation,
                columns=table.columns,
                partitions=table.partitions,
                format=table.format,
                files=tuple(
                    DataFile(
                        path=stack.enter_context(_local(table, file, places, scratch)),
                        partition=file.partition,
                    )
                    for file in table.files
                ),
                stored=table.kind == "trino",
            )
            for table, relation in zip(tables, relations, strict=True)
        )


def _is_remote(file: FoundFile, places: Places) -> bool:
    if file.locator.startswith((BLOB, SCHEME)):
        return False
    try:
        return places.roots.resolve(file.locator, places.project, "table").root.folder is None
    except ServiceError:
        return False  # gone: `_local` says so


@contextlib.contextmanager
def _local(table: FoundTable, file: FoundFile, places: Places, scratch: Path) -> Iterator[Path]:
    if file.locator.startswith(BLOB):
        sha256 = file.locator.removeprefix(BLOB)
        fetch = functools.partial(places.blobs.fetch, sha256, scratch)
        try:
            # Files of datasets are not put aside: rows that are forgotten must be in no copy.
            with (
                places.cache.file(("blob", sha256), ".parquet", scratch, fetch)
                if table.kind == "result"
                else fetch()
            ) as path:
                yield path
        except NotFoundError:
            raise _gone(table) from None
    elif file.locator.startswith(SCHEME):
        path = places.artifacts.path(file.locator)
        if not path.is_file() or path.stat().st_size != file.size:
            raise _gone(table)
        yield path
    else:
        try:
            entry = places.roots.resolve(file.locator, places.project, "table")
        except NotFoundError:
            raise _gone(table) from None
        listed = ListedFile(input=entry, size=file.size, version=file.version)
        if not is_unchanged(listed):
            raise _gone(table)
        if entry.root.folder is not None:
            with local_file(entry, scratch, field="table") as path:
                yield path
            return
        with places.cache.listed(listed, scratch) as path:
            yield path


def _gone(table: FoundTable) -> NotFoundError:
    return NotFoundError(
        f"table `{table.name}` has changed or was deleted since the query was submitted; submit "
        "the query again",
        reason="SOURCE_GONE",
    )
