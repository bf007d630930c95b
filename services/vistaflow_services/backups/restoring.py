"""Checks a backup, and puts its files back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vistaflow_services.backups.manifest import Entry, Manifest, entries_of
from vistaflow_services.backups.targets import Target
from vistaflow_services.core import files
from vistaflow_services.core.errors import DataLossError, NotFoundError
from vistaflow_services.stores.blobs import Blob, BlobStore, describe

MAX_NAMED = 10
"""Damaged files that a message names."""


def check(target: Target, manifest: Manifest) -> None:
    """Reads every file of a backup.

    Raises:
        DataLossError: Some are damaged or missing; the message names them. Nothing was touched.
    """
    damaged = [name for name, sha256 in _contents(target, manifest) if not _whole(target, sha256)]
    if damaged:
        named = ", ".join(damaged[:MAX_NAMED])
        more = f" and {len(damaged) - MAX_NAMED:,} more" if len(damaged) > MAX_NAMED else ""
        raise DataLossError(
            f"backup {manifest.backup_id} in {target.name} is damaged: {named}{more}; "
            "restore another backup, or from another target"
        )


def put_back(target: Target, manifest: Manifest, artifacts: Path, store: BlobStore) -> int:
    """Puts artifacts and files of datasets back; returns how many files there are.

    Files that are there and are the same stay. Safe to repeat after a kill.

    Args:
        target: Where the backup is.
        manifest: The backup, which has been checked.
        artifacts: The artifact store.
        store: The stores of datasets.
    """
    count = 0
    for entry in entries_of(target, manifest):
        count += 1
        if not entry.path:
            if store.stat(entry.sha256) is None:
                store.put(target.blobs.read(entry.sha256), sha256=entry.sha256)
            continue
        path = place_of(entry, artifacts)
        if path.is_file() and describe(path) == Blob(
            sha256=entry.sha256, size_bytes=entry.size_bytes
        ):
            continue
        fetch(target, entry.sha256, path)
        path.chmod(entry.mode)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
    return count


def fetch(target: Target, sha256: str, path: Path) -> None:
    """Writes a file of a backup, whole or not at all."""
    with files.appearing(path) as temporary, temporary.open("xb") as file:
        for piece in target.blobs.read(sha256):
            file.write(piece)


def place_of(entry: Entry, artifacts: Path) -> Path:
    """Where an artifact is to be.

    Raises:
        DataLossError: Its path leads out of the store, which no backup says.
    """
    path = PurePosixPath(entry.path)
    if path.is_absolute() or ".." in path.parts or "\0" in entry.path:
        raise DataLossError("the list of files of the backup is damaged; restore another backup")
    return artifacts / path


def _contents(target: Target, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What the backup consists of, each content once: its name and its SHA-256."""
    yield "the dump of the log", manifest.dump
    if not _whole(target, manifest.listing):
        raise DataLossError(
            f"backup {manifest.backup_id} in {target.name} is damaged: its list of files; "
            "restore another backup, or from another target"
        )
    seen = set[bytes]()
    for entry in entries_of(target, manifest):
        if (key := bytes.fromhex(entry.sha256)) not in seen:
            seen.add(key)
            yield entry.name, entry.sha256


def _whole(target: Target, sha256: str) -> bool:
    try:
        for _ in target.blobs.read(sha256):
            pass
    except (DataLossError, NotFoundError):
        return False
    return True
