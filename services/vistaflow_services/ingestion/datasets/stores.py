"""The stores of blobs, and what keeps them tidy.

    probe     what each store can do, if that is asked
    purge     files with forgotten records whose time has come, from every store
    expire    pages of old collections, which are then swept unless a newer one has them
    repair    copies that are missing, because a store was down or lost
    sweep     files that no version, collection or result refers to, after a grace time
    clear     what killed processes left in the scratch folder and in the stores

A store that is down fails the steps that need all stores; they are done again the next time.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from vistaflow_services.core import config as configuration
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.work.hold import removing
from vistaflow_services.core.work.query_results import stored_parts
from vistaflow_services.ingestion.datasets.registrar import Registrar
from vistaflow_services.pages.contents import expire, stored_pages
from vistaflow_services.stores.blobs import Blob, BlobStore
from vistaflow_services.stores.copies import CopiesStore
from vistaflow_services.stores.opening import declared_stores
from vistaflow_services.stores.sweep import References, sweep

LOCK = "lock"
"""The file in the scratch folder of a job that its process holds a lock on."""

PAGES_LOCK = "run/pages.lock"
"""The file in the home that collections lock while they store pages, and sweeps."""

LOCK_SECONDS = 60.0
"""Age of a scratch folder from which its process must hold the lock."""


def stores_of(home: Path) -> BlobStore:
    """The stores of blobs, as the environment declares them."""
    default = home / "artifacts" / "blobs"
    return declared_stores(configuration.stores(), configuration.copies(), default)


def collections_of(artifacts: Path) -> Iterator[Path]:
    """The folders of collections in the artifact store."""
    return (artifacts / "jobs").glob("*/collection")


def listed_blobs(artifacts: Path) -> Iterator[Blob]:
    """What lists in the artifact store refer to: pages of collections and parts of results.

    Raises:
        DataLossError: A list is damaged.
    """
    yield from stored_pages(collections_of(artifacts))
    for part in stored_parts(artifacts):
        yield Blob(sha256=part.blob, size_bytes=part.bytes)


def scratch_folder(home: Path) -> Path:
    """The folder for temporary files of imports and reads."""
    return home / "scratch" / "datasets"


@dataclass(kw_only=True)
class Tidied:
    """What was done."""

    busy: bool = False
    """Whether another process was at it, so that nothing was done."""

    stores: list[str] = field(default_factory=list)
    """What each store can do, if it was probed."""

    purged: int = 0
    """Files with forgotten records."""

    restored: int = 0
    """Copies that were missing."""

    lost: list[str] = field(default_factory=list)
    """Hashes of files without an undamaged copy in any store."""

    swept: int = 0
    """Files that no version, collection or result refers to."""

    swept_bytes: int = 0
    collections: int = 0
    """Collections whose pages were given up."""

    errors: list[str] = field(default_factory=list)
    """Why a step was not done to its end."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def tidy(
    home: Path,
    registrar: Registrar,
    grace: timedelta,
    pages: timedelta,
    *,
    probe: bool = False,
    verify: bool = False,
) -> Tidied:
    """Does all steps, unless another process of this home is at it.

    Args:
        home: `$VISTAFLOW_HOME`.
        registrar: Knows which files are referred to.
        grace: How long files that no version refers to stay.
        pages: How long pages of collections stay.
        probe: Whether the stores are probed first.
        verify: Whether every copy is read and compared with its hash.
    """
    tidied, store, scratch = Tidied(), stores_of(home), scratch_folder(home)
    for folder in (scratch, home / "run"):
        folder.mkdir(parents=True, exist_ok=True)

    def look() -> None:
        tidied.stores = [result.description for result in store.probe()] if probe else []

    def purge() -> None:
        # Also what is to be purged stays until a backup has it: until then its dump refers to it.
        with removing(home / "artifacts") as allowed:
            tidied.purged += len(purged([])) if allowed else 0

    def purged(unused: Collection[str]) -> set[str]:
        """Purges what is to be; the hashes."""
        hashes, due = set[str](), registrar.purge([], unused)
        while due:
            for sha256 in due:
                store.delete(sha256)
            hashes.update(due)
            due = registrar.purge(due)
        return hashes

    def references() -> References:
        """Those of versions, of collections and of results of queries."""
        hashes = {bytes.fromhex(blob.sha256) for blob in listed_blobs(home / "artifacts")}
        return lambda batch: {
            *registrar.references(batch),
            *(sha256 for sha256 in batch if bytes.fromhex(sha256) in hashes),
        }

    def repair() -> None:
        if isinstance(store, CopiesStore):
            repaired = store.repair(references(), scratch, verify=verify)
            tidied.restored, tidied.lost = repaired.restored_count, list(repaired.lost)

    def remove() -> None:
        # A collection that stores pages just now has no manifest yet that names them.
        with removing(home / "artifacts") as allowed, _alone(home / PAGES_LOCK) as alone:
            if allowed and alone:
                remove_unreferenced()

    def remove_unreferenced() -> None:
        swept = sweep(store, references(), purged, grace=grace)
        tidied.swept, tidied.swept_bytes = swept.blob_count, swept.size_bytes

    def clear() -> None:
        store.remove_leftovers(grace)
        for folder in scratch.iterdir():
            with contextlib.suppress(OSError):
                if abandoned(folder, grace):
                    shutil.rmtree(folder)

    def give_up() -> None:
        collections = collections_of(home / "artifacts")
        with removing(home / "artifacts") as allowed:
            if allowed:
                tidied.collections = expire(collections, time.time() - pages.total_seconds())

    with _alone(home / "run" / "stores.lock") as alone:
        tidied.busy = not alone
        for step in (look, purge, give_up, repair, remove, clear) if alone else ():
            try:
                step()
            except ServiceError as error:
                tidied.errors.append(error.message)
    return tidied


def abandoned(folder: Path, grace: timedelta) -> bool:
    """Whether the process that a scratch folder is for is gone."""
    newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    if (folder / LOCK).exists():
        with _alone(folder / LOCK) as alone:
            return alone and newest < time.time() - LOCK_SECONDS
    return newest < time.time() - grace.total_seconds()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process is within this block; a lock ends with its process."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
