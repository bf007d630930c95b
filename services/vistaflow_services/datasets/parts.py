"""Parquet files to blobs, and blobs to Parquet files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from vistaflow_services.core.errors import ExhaustedError
from vistaflow_services.datasets.manifest import Part
from vistaflow_services.stores.blobs import BlobStore

Room = Callable[[int], None]
"""Takes the bytes of a file that is about to be stored, or raises `ExhaustedError`."""


def limited(max_bytes: int | None) -> Room:
    """Room for at most so many bytes; None is any number."""
    used = 0

    def take(size: int) -> None:
        nonlocal used
        used += size
        if max_bytes is not None and used > max_bytes:
            raise ExhaustedError(
                f"the dataset has more than {max_bytes} bytes, which are left of the quota; "
                "delete versions, or raise the quota",
                reason="QUOTA",
            )

    return take


def store_parts(store: BlobStore, paths: Iterable[Path], room: Room) -> tuple[Part, ...]:
    """Stores Parquet files; files without rows are left out.

    Raises:
        ExhaustedError: There is no room, or the store is full.
    """
    parts = []
    for path in paths:
        metadata = pq.read_metadata(path)
        if not metadata.num_rows:
            continue
        room(path.stat().st_size)
        blob = store.put(path)
        groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
        parts.append(
            Part(
                sha256=blob.sha256,
                size_bytes=blob.size_bytes,
                row_count=metadata.num_rows,
                memory_bytes=sum(group.total_byte_size for group in groups),
            )
        )
    return tuple(parts)


@contextlib.contextmanager
def fetched(store: BlobStore, parts: Sequence[Part], folder: Path) -> Iterator[list[Path]]:
    """Verified files of parts, in their order, until the block ends."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(store.fetch(part.sha256, folder)) for part in parts]


def locations(store: BlobStore, parts: Iterable[Part], folder: Path) -> list[Path]:
    """The files that an engine may read to read the parts."""
    paths = (path for part in parts for path in store.location(part.sha256, folder))
    return list(dict.fromkeys(paths))
