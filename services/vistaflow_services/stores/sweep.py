"""Removal of blobs that nothing refers to.

A blob is stored before the manifest that refers to it is recorded, so a young blob without a
reference may be in use a moment later. Therefore: list first, ask for references afterwards, and
remove only what is older than the grace time. Storing a blob again renews its age.

A blob may be stored again just as it is removed. So whatever records manifests gets to know before:
from then on it records none that refers to the blob and is of a job that began earlier.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from vistaflow_services.core.errors import field_error
from vistaflow_services.stores.blobs import BlobStore, Stored

Removal = Callable[[Collection[str]], Collection[str]]
"""Removes those of at most `BATCH` blobs that no manifest refers to now, and none can that is
recorded by a job that runs; which they were."""

Item = TypeVar("Item")

BATCH = 1000
"""Blobs asked about at once."""

MIN_GRACE = timedelta(hours=2)
"""Shortest grace time: it exceeds the age at which stores renew a blob, by an upload's time."""

References = Callable[[Collection[str]], Collection[str]]
"""Which of at most `BATCH` hashes are referred to by a manifest now."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What was removed."""

    blob_count: int = 0
    size_bytes: int = 0


def sweep(
    store: BlobStore,
    references: References,
    removal: Removal,
    *,
    grace: timedelta,
    now: datetime | None = None,
) -> Swept:
    """Removes the unreferenced blobs that were last stored more than `grace` ago.

    Raises:
        InvalidError: The grace time is shorter than `MIN_GRACE`.
        UnavailableError: A store does not answer; what was removed before stays removed.
    """
    if grace < MIN_GRACE:
        raise field_error("grace", f"is {grace}; it is at least {MIN_GRACE}")
    before, swept = (now or datetime.now(UTC)) - grace, Swept()
    old = (stored for stored in store.blobs() if stored.modified_at < before)
    for batch in batches(old):
        used = set(references([stored.sha256 for stored in batch]))
        sizes = {
            stored.sha256: stored.size_bytes
            for stored in batch
            if stored.sha256 not in used and _still_old(store, stored, before)
        }
        removed = sizes.keys() & set(removal(sizes)) if sizes else ()
        swept = Swept(
            blob_count=swept.blob_count + len(removed),
            size_bytes=swept.size_bytes + sum(map(sizes.__getitem__, removed)),
        )
    return swept


def purge(store: BlobStore, hashes: Iterable[str], references: References) -> Swept:
    """Removes blobs at once, whatever their age: those of records that are to be forgotten.

    Raises:
        InvalidError: A manifest still refers to one of them; nothing of its batch was removed.
        UnavailableError: A store does not answer. Purge again when it does: its copy remains.
    """
    swept = Swept()
    for batch in batches(hashes):
        if used := references(batch):
            raise field_error(
                "blobs",
                f"{len(used)} of them are still referred to; delete the versions that hold them",
            )
        for sha256 in batch:
            stored = store.stat(sha256)
            store.delete(sha256)
            if stored:
                swept = Swept(
                    blob_count=swept.blob_count + 1, size_bytes=swept.size_bytes + stored.size_bytes
                )
    return swept


def _still_old(store: BlobStore, stored: Stored, before: datetime) -> bool:
    current = store.stat(stored.sha256)
    return current is not None and current.modified_at < before


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists of at most `BATCH`."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch
