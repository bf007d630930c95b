"""What a backup consists of, and the one place that writes and reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vistaflow_services.backups.targets import Target
from vistaflow_services.core.errors import DataLossError, InvalidError, NotFoundError
from vistaflow_services.core.names import is_sha256

FORMAT = 1

_NAME = re.compile(r"(\d{8}T\d{9}Z-[0-9a-f]{8})\.([0-9a-f]{64})\.json")
_LINE_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a backup."""

    sha256: str
    size_bytes: int
    path: str = ""
    """Of an artifact, relative to the artifact store; empty for a file of datasets."""

    mode: int = 0o600
    mtime_ns: int = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"artifact {self.path}" if self.path else f"file {self.sha256} of the datasets"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A backup."""

    backup_id: str
    created_at: str
    version: str
    """Of vistaflow."""
    epoch: str
    """Names the log."""
    revision: int
    """Everything up to it, and nothing after it, is in the dump."""
    database_schema: str
    dump: str
    """SHA-256 of the dump, which is as `vistaflow backup FILE` writes it."""
    listing: str
    """SHA-256 of the list of the other files: JSON of an `Entry` a line."""
    file_count: int
    size_bytes: int
    """Of the dump and the files, each content once."""
    missing: tuple[str, ...] = ()
    """Files of datasets that were in no store when the backup was made."""

    def encode(self) -> tuple[str, bytes]:
        """The name and the content of its file; the name has the SHA-256 of the content."""
        content = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1).encode()
        return f"{self.backup_id}.{hashlib.sha256(content).hexdigest()}.json", content


def id_at(time: datetime, job_id: str) -> str:
    """The id of a backup of a job; ids are in the order of their times."""
    return f"{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03d}Z-{job_id.replace('-', '')[:8]}"


def backups_of(target: Target) -> dict[str, str]:
    """The names of the files of manifests by the ids of their backups, newest first."""
    matches = filter(None, map(_NAME.fullmatch, target.names()))
    return {match[1]: match[0] for match in sorted(matches, key=lambda m: m[1], reverse=True)}


def manifest_of(target: Target, name: str) -> Manifest:
    """A manifest by the name of its file.

    Raises:
        DataLossError: It is damaged.
        InvalidError: It is of a newer release.
    """
    content = target.read(name)
    if hashlib.sha256(content).hexdigest() != name.split(".")[1]:
        raise DataLossError(
            f"the manifest of backup {name.partition('.')[0]} in {target.name} is damaged; "
            "restore another backup"
        )
    values: dict[str, Any] = json.loads(content)
    if values.pop("format") != FORMAT:
        raise InvalidError(f"the backups in {target.name} are of a newer release of vistaflow")
    return Manifest(**{**values, "missing": tuple(values["missing"])})


def chosen_backup(target: Target, backup_id: str) -> Manifest:
    """A backup by its id, or the newest.

    Raises:
        NotFoundError: It is not there.
        DataLossError: Its manifest is damaged.
    """
    names = backups_of(target)
    if not names:
        raise NotFoundError(f"{target.name} has no backup; is it the right target?")
    if backup_id and backup_id not in names:
        known = ", ".join(list(names)[:10])
        raise NotFoundError(f"{target.name} has no backup {backup_id}; it has {known}")
    return manifest_of(target, names[backup_id or next(iter(names))])


def entries_of(target: Target, manifest: Manifest) -> Iterator[Entry]:
    """The files of a backup but for the dump, in the order in which they were saved.

    Raises:
        DataLossError: The list is damaged; entries before were given.
    """
    rest = b""
    for piece in target.blobs.read(manifest.listing):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _LINE_BYTES:
            break
        for line in lines:
            yield _entry(line)
    if rest:
        raise DataLossError(f"the list of files of backup {manifest.backup_id} is damaged")


def line_of(entry: Entry) -> bytes:
    """A line of the list."""
    return json.dumps(dataclasses.asdict(entry)).encode() + b"\n"


def _entry(line: bytes) -> Entry:
    try:
        entry = Entry(**json.loads(line))
        if is_sha256(entry.sha256):
            return entry
    except (ValueError, TypeError):
        pass
    raise DataLossError("the list of files of the backup is damaged; restore another backup")
