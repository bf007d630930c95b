"""Saves what a target has not got yet, and removes old backups.

    1  the dump of the log
    2  artifacts, then what these and the dump refer to in the stores: what is not there yet
    3  the list of the files
    4  the manifest: from now on there is a backup
    5  old manifests, then what only they referred to

Each blob is read again after it was written. A process that is killed leaves blobs without a
manifest: the next one reads those again instead of sending them, and `rotate` removes them when
they are a day old and no backup refers to them.
"""

from __future__ import annotations

import contextlib
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from vistaflow_services.backups.manifest import (
    Entry,
    Manifest,
    backups_of,
    entries_of,
    line_of,
    manifest_of,
)
from vistaflow_services.backups.targets import Target
from vistaflow_services.core.errors import DataLossError, NotFoundError, UnavailableError
from vistaflow_services.core.failpoints import reached
from vistaflow_services.stores.blobs import Blob, describe

ORPHAN_AGE = timedelta(days=1)
"""How long blobs stay that no backup refers to, and that no removed one did."""

TRIES = 3
"""How often a file is read that changes meanwhile."""


class ChangedError(Exception):
    """A file changed while it was saved, or is gone."""


class Fetch(Protocol):
    """Opens a blob of the stores."""

    def __call__(self, sha256: str) -> AbstractContextManager[Path]:
        """The file, verified.

        Raises:
            NotFoundError: It is in no store.
            DataLossError: It is damaged in every store.
        """


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is saved."""

    backup_id: str
    created_at: str
    version: str
    epoch: str
    revision: int
    database_schema: str
    dump: Path
    blobs: Callable[[], Iterable[Blob]]
    """What the dump and the artifacts refer to in the stores."""
    fetch: Fetch
    artifacts: Path
    """The artifact store."""
    excluded: frozenset[str]
    """Names in it that are no artifacts."""


@dataclass(kw_only=True)
class Written:
    """What was done at one target."""

    files: int = 0
    """Artifacts, files of datasets, and pages."""
    sent: int = 0
    """Contents that were not there yet, among them the dump and the list of the files."""
    sent_bytes: int = 0
    removed_backups: int = 0
    removed_files: int = 0
    removed_bytes: int = 0
    missing: tuple[str, ...] = ()
    """Blobs that are in no store, or damaged in all."""


class Writer:
    """Saves one moment to any number of targets, one after the other.

    Args:
        moment: What is saved.
        scratch: For temporary files.
        progress: Told how many files are done at a target.
    """

    def __init__(self, moment: Moment, scratch: Path, progress: Callable[[str, int], None]) -> None:
        self._moment = moment
        self._scratch = scratch
        self._progress = progress
        self._described: dict[Path, tuple[tuple[int, int, int], Blob]] = {}
        """Artifacts that were read already, and what they were then."""

    def write(self, target: Target, keep: int) -> Written:
        """Saves the moment to a target, and removes the oldest backups there.

        Args:
            target: Where to.
            keep: How many backups of this log stay.

        Raises:
            UnavailableError: The target does not answer.
            ExhaustedError: It is full.
            DataLossError: It does not return what was written to it.
        """
        written, moment = Written(), self._moment
        saved = _Saved(target, written)
        dump = describe(moment.dump)
        saved.add(dump, moment.dump)
        reached("backup.after_dump")
        missing = list[str]()
        with tempfile.NamedTemporaryFile(dir=self._scratch) as listing:
            for entry in self._entries(saved, missing):
                listing.write(line_of(entry))
                written.files += 1
                self._progress(target.name, written.files)
                reached("backup.after_file")
            listing.flush()
            path = Path(listing.name)
            listed = describe(path)
            saved.add(listed, path)
        written.missing = tuple(missing)
        manifest = Manifest(
            backup_id=moment.backup_id,
            created_at=moment.created_at,
            version=moment.version,
            epoch=moment.epoch,
            revision=moment.revision,
            database_schema=moment.database_schema,
            dump=dump.sha256,
            listing=listed.sha256,
            file_count=written.files,
            size_bytes=saved.size_bytes,
            missing=written.missing,
        )
        reached("backup.before_manifest")
        name, content = manifest.encode()
        target.write(name, content)
        manifest_of(target, name)
        rotate(target, moment.epoch, keep, written)
        return written

    def _entries(self, saved: _Saved, missing: list[str]) -> Iterator[Entry]:
        for path in artifacts_in(self._moment.artifacts, self._moment.excluded):
            # Gone or changing again and again: of an attempt that is at work.
            with contextlib.suppress(ChangedError):
                yield self._artifact(path, saved)
        for blob in self._moment.blobs():
            with contextlib.ExitStack() as stack:
                if not saved.has(blob):
                    try:
                        path = stack.enter_context(self._moment.fetch(blob.sha256))
                    except (NotFoundError, DataLossError):
                        missing.append(blob.sha256)
                        continue
                    saved.put(blob, path)
            yield Entry(sha256=blob.sha256, size_bytes=blob.size_bytes)

    def _artifact(self, path: Path, saved: _Saved) -> Entry:
        for _ in range(TRIES):
            try:
                status = path.lstat()
                state = (status.st_size, status.st_mtime_ns, status.st_ino)
                known = self._described.get(path)
                blob = known[1] if known and known[0] == state else describe(path)
                self._described[path] = (state, blob)
                if not saved.has(blob):
                    saved.put(blob, path, changing=True)
            except (FileNotFoundError, ChangedError):
                self._described.pop(path, None)
                continue
            return Entry(
                sha256=blob.sha256,
                size_bytes=blob.size_bytes,
                path=path.relative_to(self._moment.artifacts).as_posix(),
                mode=stat.S_IMODE(status.st_mode),
                mtime_ns=status.st_mtime_ns,
            )
        raise ChangedError


class _Saved:
    """What a target has of the backup that is being made."""

    def __init__(self, target: Target, written: Written) -> None:
        self._target = target
        self._written = written
        self._done = set[bytes]()
        self._verified = set[bytes]()
        """What the newest backup refers to: it was read after it had been written."""
        self.size_bytes = 0
        for name in list(backups_of(target).values())[:1]:
            # A damaged backup vouches for nothing.
            with contextlib.suppress(DataLossError, NotFoundError):
                manifest = manifest_of(target, name)
                entries = [bytes.fromhex(entry.sha256) for entry in entries_of(target, manifest)]
                self._verified = set(entries)

    def has(self, blob: Blob) -> bool:
        """Whether the target has a blob, whole."""
        key = bytes.fromhex(blob.sha256)
        if key in self._done:
            return True
        stored = self._target.blobs.stat(blob.sha256)
        if stored is None or stored.size_bytes != blob.size_bytes:
            return False
        if key not in self._verified and not self._is_whole(blob):
            return False
        self._note(key, blob)
        return True

    def add(self, blob: Blob, path: Path) -> None:
        """Stores a blob unless it is there."""
        if not self.has(blob):
            self.put(blob, path)

    def put(self, blob: Blob, path: Path, *, changing: bool = False) -> None:
        """Stores a blob that is not there, or is damaged there, and reads it again.

        Raises:
            ChangedError: The file, which may change, is no longer what it was.
            DataLossError: The target does not return what was written to it.
        """
        try:
            self._target.blobs.place(blob, path, replace=True)
        except UnavailableError:
            if changing and not path.exists():
                raise ChangedError from None
            raise
        if not self._is_whole(blob):
            self._target.blobs.delete(blob.sha256)
            if changing and describe(path) != blob:
                raise ChangedError
            raise DataLossError(
                f"target {self._target.name} does not return what was written to it; "
                "check its disk, or use another"
            )
        self._written.sent += 1
        self._written.sent_bytes += blob.size_bytes
        self._note(bytes.fromhex(blob.sha256), blob)

    def _is_whole(self, blob: Blob) -> bool:
        try:
            for _ in self._target.blobs.read(blob.sha256):
                pass
        except (DataLossError, NotFoundError):
            return False
        return True

    def _note(self, key: bytes, blob: Blob) -> None:
        self._done.add(key)
        self.size_bytes += blob.size_bytes


def artifacts_in(root: Path, excluded: frozenset[str]) -> Iterator[Path]:
    """The files of an artifact store, in order; links are left out, and what is being written."""
    for path in sorted(root.iterdir()):
        if path.name not in excluded:
            yield from _files_below(path)


def _files_below(path: Path) -> Iterator[Path]:
    try:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            for child in sorted(path.iterdir()):
                yield from _files_below(child)
        elif stat.S_ISREG(mode) and not path.name.startswith("."):
            yield path
    except FileNotFoundError:
        return


def rotate(target: Target, epoch: str, keep: int, written: Written) -> None:
    """Removes the backups of a log beyond the newest, and what no other backup refers to.

    Args:
        target: Where they are.
        epoch: The log; backups of others stay.
        keep: How many stay.
        written: Counts what is removed.

    Raises:
        DataLossError: A backup there is damaged, so that nobody knows what it refers to.
    """
    needed, removed = set[bytes](), set[bytes]()
    gone, damaged, count = list[str](), list[str](), 0
    for name in backups_of(target).values():
        try:
            manifest = manifest_of(target, name)
            hashes = {bytes.fromhex(entry.sha256) for entry in entries_of(target, manifest)}
        except (DataLossError, NotFoundError):
            damaged.append(name)
            continue
        hashes |= {bytes.fromhex(manifest.dump), bytes.fromhex(manifest.listing)}
        count += manifest.epoch == epoch
        if manifest.epoch == epoch and count > keep:
            gone.append(name)
            removed |= hashes
        else:
            needed |= hashes
    for name in gone:
        target.remove(name)
        written.removed_backups += 1
    if damaged:
        raise DataLossError(
            f"the new backup is complete, but an older one in {target.name} is damaged: remove "
            f"backups/{damaged[0]} there; until then nothing else is removed"
        )
    oldest = datetime.now(UTC) - ORPHAN_AGE
    doomed = [
        stored
        for stored in target.blobs.blobs()
        if (key := bytes.fromhex(stored.sha256)) not in needed
        and (key in removed or stored.modified_at < oldest)
    ]
    reached("backup.before_remove")
    for stored in doomed:
        target.blobs.delete(stored.sha256)
        written.removed_files += 1
        written.removed_bytes += stored.size_bytes
    target.blobs.remove_leftovers(ORPHAN_AGE)
