"""A store in a local folder: `cas/<two digits>/<sha256>`.

A blob is written under a temporary name, synced and linked to its name, so it is there whole or
not at all, also after a power cut. The root is created when the store is opened and never later:
a disk that disappears makes the store unavailable, and does not begin an empty one in its place.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vistaflow_services.core import files
from vistaflow_services.core.errors import ExhaustedError, ServiceError, UnavailableError
from vistaflow_services.core.names import is_sha256
from vistaflow_services.stores.blobs import (
    PIECE,
    Blob,
    BlobStore,
    Probe,
    Stored,
    checked_sha256,
    copy_synced,
    damaged,
    describe,
    missing,
    unavailable,
)


class FolderStore(BlobStore):
    """Blobs in one folder of the file system."""

    def __init__(self, name: str, root: Path, *, strict: bool = True) -> None:
        """Opens the store.

        Args:
            name: What messages call the store.
            root: Its folder; the one that contains it must exist.
            strict: Whether it must be usable now. Otherwise its methods raise until it is.

        Raises:
            UnavailableError: The folder cannot be used.
        """
        self.name = name
        self._root = root
        try:
            with self._failures():
                for folder in (root, root / "cas", root / "tmp"):
                    folder.mkdir(exist_ok=True)
                self._root = root.resolve(strict=True)
        except UnavailableError:
            if strict:
                raise

    def place(self, blob: Blob, path: Path, *, replace: bool = False) -> None:
        """Writes under a temporary name, syncs and renames."""
        target = self._path(blob.sha256)
        with self._failures():
            if not replace and self._renewed(target, blob):
                return
            target.parent.mkdir(exist_ok=True)
            with self._temporary() as temporary:
                if path.parent == self._root / "tmp":  # `put` spooled it here
                    os.link(path, temporary)
                    files.sync(temporary)
                else:
                    copy_synced(path, temporary)
                os.replace(temporary, target)
            files.sync(target.parent)
            files.sync(target.parent.parent)

    def _renewed(self, target: Path, blob: Blob) -> bool:
        """Whether a copy of the right size exists; its age begins again, see `sweep`."""
        try:
            os.utime(target)
            return target.stat().st_size == blob.size_bytes
        except FileNotFoundError:
            return False

    def _pieces(self, sha256: str, offset: int, count: int) -> Iterator[bytes]:
        with self._failures():
            try:
                file = self._path(sha256).open("rb")
            except FileNotFoundError:
                raise missing(sha256, self.name) from None
            with file:
                file.seek(offset)
                while count and (piece := file.read(min(PIECE, count))):
                    count -= len(piece)
                    yield piece

    @contextlib.contextmanager
    def fetch(self, sha256: str, folder: Path) -> Iterator[Path]:
        """The file itself, verified; nothing is copied."""
        path = self._path(sha256)
        with self._failures():
            try:
                blob = describe(path)
            except FileNotFoundError:
                raise missing(sha256, self.name) from None
        if blob.sha256 != sha256:
            raise damaged(sha256, self.name)
        yield path

    def location(self, sha256: str, folder: Path) -> tuple[Path, ...]:
        """The file itself."""
        return (self._path(sha256),)

    def stat(self, sha256: str) -> Stored | None:
        """Size and age by the file's."""
        path = self._path(sha256)
        with self._failures():
            try:
                status = path.stat()
            except FileNotFoundError:
                # Without the root nothing can be said about its blobs.
                os.stat(self._root / "cas")
                return None
        return _stored(sha256, status)

    def delete(self, sha256: str) -> None:
        """Removes the file."""
        with self._failures():
            try:
                self._path(sha256).unlink()
            except FileNotFoundError:
                os.stat(self._root / "cas")
                return
            files.sync(self._path(sha256).parent)

    def blobs(self) -> Iterator[Stored]:
        """Reads the folders, one at a time."""
        with self._failures():
            for folder in sorted(os.listdir(self._root / "cas")):
                # Names are the order of the hashes: the folders' names are their first digits.
                for name in sorted(os.listdir(self._root / "cas" / folder)):
                    if is_sha256(name):
                        with contextlib.suppress(FileNotFoundError):
                            yield _stored(name, (self._root / "cas" / folder / name).stat())

    def probe(self) -> tuple[Probe, ...]:
        """Writes and removes a temporary file."""
        with self._failures(), self._temporary() as path:
            path.write_bytes(b"probe")
            files.sync(path)
        return (Probe(store=self.name, put_if_absent=True),)

    def remove_leftovers(self, grace: timedelta) -> int:
        """Removes temporary files of killed writers that are older than `grace`; how many."""
        oldest, count = time.time() - grace.total_seconds(), 0
        with self._failures():
            for path in (self._root / "tmp").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()
                        count += 1
        return count

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self._root / "tmp" / secrets.token_hex(16)
        try:
            # `put` writes its stream here: a full disk is then the store's.
            with self._failures():
                yield path
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._root / "cas" / checked_sha256(sha256)[:2] / sha256

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Errors of the file system as those of a store; their texts contain paths."""
        try:
            yield
        except ServiceError:
            raise
        except OSError as error:
            if files.is_full(error):
                raise ExhaustedError(
                    f"store {self.name} is full; free space, or delete versions",
                    reason="STORE_FULL",
                ) from None
            problem = os.strerror(error.errno) if error.errno else "cannot be used"
            raise unavailable(self.name, f"cannot be used: {problem}") from None


def _stored(sha256: str, status: os.stat_result) -> Stored:
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return Stored(sha256=sha256, size_bytes=status.st_size, modified_at=modified)
