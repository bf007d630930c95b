"""The pages of all collections, in the stores of blobs.

A page is stored before the manifest of its collection names it, and swept once no manifest does.
Storing and sweeping exclude each other by a lock: otherwise a page that a sweep has found to be
unused could be stored again before it is removed, and its manifest would name what is nowhere.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from vistaflow_services.core import files
from vistaflow_services.core.errors import DataLossError, NotFoundError, UnavailableError
from vistaflow_services.pages.plan import PAGES, read_pages
from vistaflow_services.stores.blobs import Blob, BlobStore

EXPIRED: Final = "expired"
"""The file in the folder of a collection whose pages are no longer kept."""


class Contents:
    """Pages by their SHA-256.

    Args:
        store: The stores.
        lock: The file that storing and sweeping lock.
    """

    def __init__(self, store: BlobStore, lock: Path) -> None:
        self._store, self._lock = store, lock
        self._damaged = set[str]()
        """Pages that could not be taken; a store may have a copy of the right size still."""

    def has(self, sha256: str) -> bool:
        """Whether a page is there, as far as is known without reading it."""
        with suppress(UnavailableError):
            return self._store.stat(sha256) is not None
        return False

    def take(self, sha256: str, target: Path) -> bool:
        """Makes a page a file: a link to it, if the store and the file system allow it.

        Returns:
            Whether it is there, undamaged.
        """
        with (
            suppress(NotFoundError, DataLossError, UnavailableError),
            tempfile.TemporaryDirectory(dir=target.parent) as scratch,
            self._store.fetch(sha256, Path(scratch)) as path,
            files.appearing(target) as temporary,
        ):
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)
            return True
        self._damaged.add(sha256)
        return False

    @contextmanager
    def storing(self, paths: Mapping[Blob, Path]) -> Iterator[None]:
        """Stores pages; they stay if a manifest names them when the block ends.

        Raises:
            UnavailableError: Too few stores answer.
            ExhaustedError: A store is full.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            for blob, path in paths.items():
                self._store.place(blob, path, replace=blob.sha256 in self._damaged)
            yield


def opened(store: BlobStore, sha256: str, folder: Path) -> BinaryIO:
    """A page as an open file, verified.

    Args:
        store: The stores.
        sha256: The page.
        folder: Where a store that is elsewhere downloads to.

    Raises:
        NotFoundError: It is in no store.
        DataLossError: It is damaged in every store.
        UnavailableError: A store does not answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        store.fetch(sha256, Path(scratch)) as path,
    ):
        return path.open("rb")


def stored_pages(collections: Iterable[Path]) -> Iterator[Blob]:
    """The pages that manifests name and that are kept, each once.

    Args:
        collections: Folders of collections.

    Raises:
        DataLossError: A manifest is damaged.
    """
    seen = set[bytes]()
    for folder in collections:
        if (folder / EXPIRED).exists():
            continue
        try:
            for page in read_pages(folder / PAGES):
                if page.sha256 and (key := bytes.fromhex(page.sha256)) not in seen:
                    seen.add(key)
                    yield Blob(sha256=page.sha256, size_bytes=page.bytes)
        except FileNotFoundError:  # it is at work, or failed
            continue
        except (ValueError, TypeError):
            # Nobody knows which pages it names: none may be removed.
            raise DataLossError(
                f"{PAGES} of collection {folder.parent.name} is damaged; restore it from a backup, "
                "or remove the folder of the collection"
            ) from None


def expire(collections: Iterable[Path], before: float) -> int:
    """Gives up the pages of collections that ended before a time; rows and manifests stay.

    Args:
        collections: Folders of collections.
        before: The time in seconds since 1970.

    Returns:
        How many collections had pages until now.
    """
    count = 0
    for folder in collections:
        with suppress(OSError):
            ended = max(path.stat().st_mtime for path in folder.iterdir() if path.is_file())
            is_kept = (folder / PAGES).exists() and not (folder / EXPIRED).exists()
            if ended < before and is_kept:
                (folder / EXPIRED).touch()
                count += 1
    return count
