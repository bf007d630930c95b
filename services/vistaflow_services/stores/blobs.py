"""The seam: what a store of blobs does.

A blob is immutable and named by the SHA-256 of its content. Storing it again is harmless, every
copy can be verified by its name, and no two writers can disagree about it.

Memory is bounded by `PIECE` in each direction: blobs are read and written in pieces, and a stream
whose hash is not known yet is written to a temporary file first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from vistaflow_services.core import files
from vistaflow_services.core.errors import (
    DataLossError,
    NotFoundError,
    UnavailableError,
    field_error,
)
from vistaflow_services.core.names import is_sha256

PIECE = 1 << 20
"""Most bytes of one piece of a stream."""


def checked_sha256(sha256: str, field: str = "sha256") -> str:
    """The hash, if it is one.

    Raises:
        InvalidError: It is not 64 lower-case hexadecimal digits.
    """
    if not isinstance(sha256, str) or not is_sha256(sha256):
        raise field_error(field, "is not a SHA-256; write 64 lower-case hexadecimal digits")
    return sha256


@dataclass(frozen=True, kw_only=True)
class Blob:
    """The identity of some bytes."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        checked_sha256(self.sha256)
        if self.size_bytes < 0:
            raise field_error("size_bytes", f"is {self.size_bytes}; a size is at least 0")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A blob as a store lists it."""

    sha256: str
    size_bytes: int
    modified_at: datetime
    """When it was last stored; storing it again renews this."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a store turned out to do."""

    store: str
    put_if_absent: bool
    """Whether the store itself refuses to replace an existing object on request."""

    @property
    def description(self) -> str:
        """A sentence for the log."""
        if self.put_if_absent:
            return f"store {self.store}: reads and writes; put-if-absent is supported"
        return (
            f"store {self.store}: reads and writes; put-if-absent is not supported, "
            "existing blobs are looked up before writing"
        )


class BlobStore(ABC):
    """Blobs by content.

    Every method may raise `UnavailableError` (the store cannot be reached, or refuses the
    credentials) and `ExhaustedError` (it is full).
    """

    name: str

    def put(self, source: Path | Iterable[bytes], *, sha256: str | None = None) -> Blob:
        """Stores a file or a stream, whole or not at all.

        Args:
            source: A file, which stays where it is and must not change meanwhile, or its pieces.
            sha256: What the hash of the content must be.

        Raises:
            InvalidError: The content has another hash.
        """
        with contextlib.ExitStack() as stack:
            if isinstance(source, Path):
                path, blob = source, describe(source)
            else:
                path = stack.enter_context(self._temporary())
                blob = _spool(source, path)
            if sha256 is not None and checked_sha256(sha256) != blob.sha256:
                raise field_error("sha256", "is not that of the content; send the content again")
            self.place(blob, path)
        return blob

    @abstractmethod
    def place(self, blob: Blob, path: Path, *, replace: bool = False) -> None:
        """Stores a file whose identity is known.

        Args:
            blob: The identity of the file, computed by `describe`.
            path: The file.
            replace: Whether an existing copy is written again, because it is damaged.
        """

    def read(self, sha256: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The content or a range of it, in pieces of at most `PIECE` bytes.

        A whole blob is verified; the error comes after its last piece. Use `fetch` where nothing
        unverified may be used.

        Args:
            sha256: The blob.
            offset: The first byte.
            length: Bytes from there; up to the end if None, and never beyond it.

        Raises:
            NotFoundError: There is no such blob.
            InvalidError: The range begins beyond the end.
            DataLossError: The content is not what was stored.
        """
        stored = self.stat(sha256)
        if stored is None:
            raise missing(sha256, self.name)
        if not 0 <= offset <= stored.size_bytes:
            raise field_error("offset", f"is {offset}; the blob has {stored.size_bytes} bytes")
        if length is not None and length < 0:
            raise field_error("length", f"is {length}; a length is at least 0")
        rest = stored.size_bytes - offset
        count = rest if length is None else min(length, rest)
        return self._verified(sha256, offset, count, whole=count == stored.size_bytes)

    def _verified(self, sha256: str, offset: int, count: int, *, whole: bool) -> Iterator[bytes]:
        digest, rest = hashlib.sha256(), count
        for piece in self._pieces(sha256, offset, count) if count else ():
            rest -= len(piece)
            digest.update(piece)
            yield piece
        if rest or (whole and digest.hexdigest() != sha256):
            raise damaged(sha256, self.name)

    @abstractmethod
    def _pieces(self, sha256: str, offset: int, count: int) -> Iterator[bytes]:
        """The bytes of a range that exists, with `count` of at least 1."""

    @contextlib.contextmanager
    def fetch(self, sha256: str, folder: Path) -> Iterator[Path]:
        """A verified local file with the content, there until the block ends.

        Args:
            sha256: The blob.
            folder: Where a store that is elsewhere downloads to. The file is called `sha256`.

        Raises:
            NotFoundError: There is no such blob.
            DataLossError: The content is not what was stored.
        """
        path = folder / checked_sha256(sha256)
        try:
            with path.open("wb") as file:
                for piece in self.read(sha256):
                    file.write(piece)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def location(self, sha256: str, folder: Path) -> tuple[Path, ...]:
        """The paths that `fetch` may yield; an engine is given access to these and no others."""
        return (folder / checked_sha256(sha256),)

    @abstractmethod
    def stat(self, sha256: str) -> Stored | None:
        """Size and age of a blob, or None if there is none."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Removes a blob; one that does not exist is no error."""

    @abstractmethod
    def blobs(self) -> Iterator[Stored]:
        """All blobs, in the order of their hashes."""

    @abstractmethod
    def probe(self) -> tuple[Probe, ...]:
        """Writes, reads and deletes a small object; called once, at the start of a service."""

    def remove_leftovers(self, grace: timedelta) -> int:
        """Removes temporary files of killed writers that are older than `grace`; how many."""
        return 0

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A path for a file that is needed until the block ends."""
        with tempfile.TemporaryDirectory(prefix="vistaflow-") as folder:
            yield Path(folder) / "blob"


def describe(path: Path) -> Blob:
    """The identity of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Blob(sha256=digest, size_bytes=file.tell())


def _spool(pieces: Iterable[bytes], path: Path) -> Blob:
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    return Blob(sha256=digest.hexdigest(), size_bytes=size)


def copy_synced(source: Path, target: Path) -> None:
    """Copies a file in pieces, and its bytes to the disk."""
    with source.open("rb") as reader, target.open("xb") as writer:
        while piece := reader.read(PIECE):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
    files.sync(target.parent)


def missing(sha256: str, store: str) -> NotFoundError:
    """The error of a blob that does not exist."""
    return NotFoundError(f"no blob {sha256[:12]}… in store {store}; was it removed?")


def damaged(sha256: str, store: str) -> DataLossError:
    """The error of a blob whose content is not what was stored."""
    return DataLossError(
        f"blob {sha256[:12]}… in store {store} is damaged; "
        "repair the store from its copies, or import the data again"
    )


def unavailable(store: str, problem: str) -> UnavailableError:
    """The error of a store that cannot be used now."""
    return UnavailableError(f"store {store} {problem}", reason="STORE_UNAVAILABLE")
