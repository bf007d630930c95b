"""Reads files that jobs wrote, below one folder and never out of it.

The names come from callers and the folders are written by jobs, whose code may be anybody's. So
each folder on the way is opened by its descriptor, and no symlink is followed: checking a path
first and opening it later would leave time to exchange a folder for a symlink.
"""

from __future__ import annotations

import errno
import heapq
import io
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vistaflow_services.core.errors import (
    ConflictError,
    NotFoundError,
    cut,
    field_error,
)
from vistaflow_services.core.work.uris import PUBLISHED_NAME, uri_error

BLOCK_BYTES: Final = 1 << 20
"""Most bytes that are read at once."""

_ABSENT: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG, errno.ENXIO}
)
"""Errors of opening what is not there, is a symlink, or can be no file."""

_SERVICE = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LOG = re.compile(r"([1-9][0-9]{0,8})\.log")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file or folder in a folder."""

    name: str
    size: int
    is_folder: bool


class StoredFile:
    """A file that is open for reading, whose content must not change meanwhile.

    Its methods are called in threads. One that is still reading when the call ends keeps the
    descriptor from being closed, and so from becoming that of another file.
    """

    def __init__(self, descriptor: int) -> None:
        # Closed with this object, too: a canceled call never sees what its thread has opened.
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()
        self._first = _version(descriptor)
        self.size = self._first[0]

    def read(self, offset: int, length: int) -> bytes:
        """At most `BLOCK_BYTES` of a range that lies in the file; at least one byte of it.

        Raises:
            ConflictError: The file was changed or deleted since it was opened.
        """
        with self._lock:
            descriptor = self._file.fileno()
            data = os.pread(descriptor, min(length, BLOCK_BYTES), offset)
            # After the read: what was read before a change is valid.
            if _version(descriptor) != self._first or (length and not data):
                raise ConflictError(
                    "the file was changed or deleted while it was read; read it again",
                    reason="ARTIFACT_CHANGED",
                )
            return data

    def close(self) -> None:
        """Closes the file, once nothing reads it."""
        with self._lock:
            self._file.close()


def open_file(root: Path, parts: Sequence[str], uri: str) -> StoredFile:
    """Opens a file below a folder.

    Raises:
        NotFoundError: There is none.
        InvalidError: It is a folder.
    """
    descriptor = _open(root, parts, uri)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return StoredFile(descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise uri_error(uri, "is a folder; list it with ListArtifacts")
    raise _absent(uri)


def list_folder(
    root: Path, parts: Sequence[str], uri: str, *, after: str, count: int
) -> list[Entry]:
    """The first `count` entries of a folder whose names come after a name, by name.

    However many entries the folder has, no more than `count` are in memory.

    Raises:
        NotFoundError: There is no such folder.
        InvalidError: It is a file.
    """
    descriptor = _open(root, parts, uri)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise uri_error(uri, "is a file; read it with ReadArtifact")
        with os.scandir(descriptor) as entries:
            later = (entry for entry in _entries(entries) if entry.name > after)
            return heapq.nsmallest(count, later, key=lambda entry: entry.name)
    finally:
        os.close(descriptor)


def attempts_with_log(logs: Path, job_id: str) -> list[int]:
    """The attempts of a job that have a log in the folder of all logs, in their order."""
    try:
        descriptor = _open(logs, (job_id,), job_id)
    except NotFoundError:
        return []
    try:
        names = map(_LOG.fullmatch, os.listdir(descriptor))
        return sorted(int(match[1]) for match in names if match)
    except NotADirectoryError:
        return []
    finally:
        os.close(descriptor)


def read_log(logs: Path, job_id: str, attempt: int, offset: int) -> bytes:
    """At most `BLOCK_BYTES` of an attempt's log; nothing where it ends, and if there is none."""
    try:
        descriptor = _open(logs, (job_id, f"{attempt}.log"), job_id)
    except NotFoundError:
        return b""
    try:
        status = os.fstat(descriptor)
        # Some systems refuse to read at offsets far beyond the end.
        if not stat.S_ISREG(status.st_mode) or offset >= status.st_size:
            return b""
        return os.pread(descriptor, BLOCK_BYTES, offset)
    finally:
        os.close(descriptor)


class ServiceLog:
    """The log of a service, which goes on in a new file when it has grown.

    Args:
        logs: The folder of the services' logs.
        service: The service.
        offset: Where to begin.

    Raises:
        InvalidError: It is no name of a service.
        NotFoundError: It does not log here.
    """

    def __init__(self, logs: Path, service: str, offset: int) -> None:
        if not _SERVICE.fullmatch(service):
            raise field_error("service", "must be the name of a service, such as `doe`")
        self._logs, self._service = logs, service
        self._file = self._opened()
        self._lock = threading.Lock()
        self.offset = offset

    def read(self) -> bytes:
        """The next bytes, at most `BLOCK_BYTES`; nothing if there are no more yet."""
        with self._lock:
            if data := self._next():
                return data
            try:
                file = self._opened()
            except NotFoundError:
                return b""
            is_same = os.path.samestat(os.fstat(file.fileno()), os.fstat(self._file.fileno()))
            # The former file is complete once there is a new one: its rest is read first.
            if is_same or (data := self._next()):
                file.close()
                return data
            self._file.close()
            self._file, self.offset = file, 0
            return self._next()

    def close(self) -> None:
        """Closes the file, once nothing reads it."""
        with self._lock:
            self._file.close()

    def _next(self) -> bytes:
        descriptor = self._file.fileno()
        # Some systems refuse to read at offsets far beyond the end.
        return os.pread(descriptor, BLOCK_BYTES, min(self.offset, os.fstat(descriptor).st_size))

    def _opened(self) -> io.FileIO:
        name = f"{self._service}.jsonl"
        try:
            return io.FileIO(_open(self._logs, (name,), name), "r")
        except (NotFoundError, IsADirectoryError):
            raise NotFoundError(f"no service `{self._service}` logs here") from None


def _open(root: Path, parts: Sequence[str], uri: str) -> int:
    """The descriptor of a file or folder below `root`."""
    # Without O_NONBLOCK opening a named pipe would wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts:
            outer = descriptor
            try:
                descriptor = os.open(part, flags, dir_fd=outer)
            finally:
                os.close(outer)
    except OSError as error:
        if error.errno in _ABSENT:
            raise _absent(uri) from None
        raise
    return descriptor


def _version(descriptor: int) -> tuple[int, int, bool]:
    """What changes with the content of an open file: size, time, whether it still has a name."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_nlink > 0


def _entries(entries: Iterator[os.DirEntry[str]]) -> Iterator[Entry]:
    """The files and folders of a folder that can be read by their names."""
    for entry in entries:
        # A name that is not UTF-8 has surrogates, which no message can hold.
        if not PUBLISHED_NAME.fullmatch(entry.name) or any(
            "\ud800" <= sign <= "\udfff" for sign in entry.name
        ):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield Entry(name=entry.name, size=0, is_folder=True)
        elif stat.S_ISREG(status.st_mode):
            yield Entry(name=entry.name, size=status.st_size, is_folder=False)


def _absent(uri: str) -> NotFoundError:
    return NotFoundError(f"no artifact {cut(uri, 500)}")
