"""Files that callers send, below `$VISTAFLOW_HOME/uploads`, until they expire.

    PROJECT/ID/header.json   what the file is; the time of its last change is that of the last use
    PROJECT/ID/part          the bytes that are there
    PROJECT/ID/whole/NAME    all of them, once their size and SHA-256 are those of the header

The folder of an upload is locked by the call that adds to it or deletes it. The lock ends with the
process, and what is there counts: so an upload goes on after a kill where its bytes end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Final

from vistaflow_services.core import files
from vistaflow_services.core.errors import (
    BusyError,
    ConflictError,
    ExhaustedError,
    ExistsError,
    NotFoundError,
    Violations,
    cut,
    field_error,
)
from vistaflow_services.core.names import MAX_PROJECT, has_control, is_sha256, name_problems
from vistaflow_services.core.stage import Stage
from vistaflow_services.ingestion.config import Config
from vistaflow_services.stores.roots import Input, Root

logger = logging.getLogger(__name__)

FOLDER: Final = "uploads"
"""The folder of all uploads in `$VISTAFLOW_HOME`."""

SCHEME: Final = "upload:"
"""What the name of a file begins with that was uploaded; its id follows."""

MAX_UPLOADS: Final = 10_000
"""Most uploads of one project at a time."""

MAX_FILE_BYTES: Final = 1 << 43
"""Largest file that is taken: 8 TiB."""

NO_PROJECT: Final = "_"
"""The folder for uploads of no project. Names of projects begin with a letter or a digit."""

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a caller says of a file before sending it.

    Raises:
        InvalidError: One violation for each value that is not valid.
    """

    upload_id: str
    file_name: str
    """Its last part becomes the name of the file."""

    size_bytes: int
    sha256: str
    project: str = ""

    def __post_init__(self) -> None:
        violations = Violations()
        if not _ID.fullmatch(self.upload_id):
            violations.add("header.upload_id", "must be 32 of 0-9 a-f")
        if not is_sha256(self.sha256):
            violations.add("header.sha256", "must be the SHA-256 of the file, 64 of 0-9 a-f")
        if not 0 <= self.size_bytes <= MAX_FILE_BYTES:
            violations.add("header.size_bytes", f"must be from 0 to {MAX_FILE_BYTES:,}")
        name = self.file_name.replace("\\", "/").rpartition("/")[2]
        if not name or name.startswith(".") or len(name.encode()) > 255 or has_control(name):
            violations.add(
                "header.file_name",
                "must end with a name of 1 to 255 bytes that has no control character and no dot "
                "in front",
            )
        if self.project:
            for problem in name_problems(self.project, MAX_PROJECT):
                violations.add("header.project", problem)
        violations.check()
        object.__setattr__(self, "file_name", name)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload as it is on disk."""

    header: Header
    folder: Path
    received_bytes: int
    expires_at: datetime

    @property
    def complete(self) -> bool:
        """Whether all of the file is there."""
        return self.file.is_file()

    @property
    def file(self) -> Path:
        """Where the file is once it is complete."""
        return self.folder / "whole" / self.header.file_name


class Uploads:
    """The uploads of all projects.

    Args:
        folder: Where they are.
        config: How much a project may store and for how long, and how much of the disk stays free.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._quota = config.upload_quota_bytes
        self._reserve = config.upload_reserve_bytes
        self._life = timedelta(days=config.upload_days)
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}

    def get(self, upload_id: str, project: str) -> Upload:
        """An upload that a caller sees.

        Args:
            upload_id: Its id.
            project: The caller's; uploads of all projects are seen if empty.

        Raises:
            NotFoundError: There is none, or it is another project's.
        """
        if _ID.fullmatch(upload_id):
            names = [project] if project else ["", *self._projects()]
            for folder in (self._of(name) / upload_id for name in names):
                with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
                    return self._read(folder)
        raise NotFoundError(
            f"no upload `{cut(upload_id, 100)}`; it may have expired: send the file again"
        )

    def input(self, name: str, project: str, field: str) -> Input:
        """The file of an upload, as an input.

        Args:
            name: `upload:ID`.
            project: The caller's; uploads of all projects are seen if empty.
            field: Where the name is in the request, for messages.

        Raises:
            NotFoundError: There is no such upload for the caller.
            ConflictError: It is not complete.
        """
        upload_id = name.removeprefix(SCHEME)
        if not _ID.fullmatch(upload_id):
            raise field_error(field, f"must have an id of 32 of 0-9 a-f after `{SCHEME}`")
        upload = self.get(upload_id, project)
        if not upload.complete:
            raise ConflictError(
                f"{field}: upload {upload_id} is not complete: {upload.received_bytes:,} of "
                f"{upload.header.size_bytes:,} bytes are there; send the rest",
                reason="UPLOAD_INCOMPLETE",
            )
        with contextlib.suppress(FileNotFoundError):
            os.utime(upload.folder / "header.json")
        root = Root(name=name, project=upload.header.project, url=str(upload.file.parent))
        return Input(root=root, path=PurePosixPath(upload.header.file_name))

    def delete(self, upload_id: str, project: str) -> None:
        """Deletes an upload.

        Raises:
            NotFoundError: There is none for this caller.
            BusyError: A call adds to it.
        """
        upload = self.get(upload_id, project)
        with _locked(upload.folder, upload_id):
            self._remove(upload.folder)

    def remove_expired(self) -> tuple[int, int]:
        """Removes expired uploads and what interrupted calls left; how many, and their bytes."""
        removed, total = 0, 0
        for project in ["", *self._projects()]:
            for folder in _folders(self._of(project)):
                # What begins with a dot was being removed when its process ended.
                if folder.name.startswith("."):
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                with contextlib.suppress(OSError, BusyError, NotFoundError):
                    if not self._expired(folder):
                        continue
                    with _locked(folder, folder.name):
                        if self._expired(folder):
                            size = _size(folder)
                            self._remove(folder)
                            removed, total = removed + 1, total + size
        return removed, total

    @contextlib.contextmanager
    def receiving(self, header: Header, offset: int) -> Iterator[tuple[Upload, int]]:
        """The upload that goes on at an offset, locked, and the descriptor of its bytes so far.

        The descriptor is -1 if the upload is complete.

        Raises:
            ExistsError: The id is that of another file.
            BusyError: Another call adds to it, or it goes on at another offset.
            ExhaustedError: The rest of it is beyond the quota or does not fit on the disk.
        """
        project = self._of(header.project)
        folder = project / header.upload_id
        self._begin(header, folder)
        with _locked(folder, header.upload_id), disk_errors():
            text = json.dumps({**asdict(header), "created_at": datetime.now(UTC).isoformat()})
            if not (folder / "header.json").exists():
                files.write(folder / "header.json", text.encode())
            upload = self._read(folder)
            if upload.header != header:
                raise ExistsError(
                    f"the id {header.upload_id} is that of another upload; choose another id, or "
                    "delete that one"
                )
            try:
                os.utime(folder / "header.json")
                if upload.complete:
                    yield upload, -1
                    return
                if offset != upload.received_bytes:
                    raise BusyError(
                        f"header.offset: the upload goes on at {upload.received_bytes:,}, not at "
                        f"{offset:,}",
                        reason="UPLOAD_OFFSET",
                    )
                self._check_room(header, header.size_bytes - offset)
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
                part = os.open(folder / "part", flags, 0o600)
                try:
                    yield upload, part
                finally:
                    os.close(part)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(folder / "header.json")

    def take(self, project: str, count: int) -> None:
        """Counts bytes that are about to be written.

        Raises:
            ExhaustedError: They are beyond the project's quota, or the disk is nearly full.
        """
        if shutil.disk_usage(self._folder).free - count < self._reserve:
            raise _disk_full()
        with self._lock:
            used = self._used.get(project, 0)
            if used + count > self._quota:
                raise self._over_quota(used)
            self._used[project] = used + count

    def _begin(self, header: Header, folder: Path) -> None:
        """Makes the folder of an upload, and counts what its project has stored."""
        with self._lock, disk_errors():
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            count, used = 0, 0
            for other in _folders(folder.parent):
                count += 1
                used += _size(other)
            # Counted again with each call: other processes may store here, too.
            self._used[header.project] = used
            if not folder.exists() and count >= MAX_UPLOADS:
                raise ExhaustedError(
                    f"the project has {MAX_UPLOADS:,} uploads; delete some first",
                    reason="UPLOAD_QUOTA",
                )
            folder.mkdir(mode=0o700, exist_ok=True)

    def _check_room(self, header: Header, rest: int) -> None:
        used = self._used.get(header.project, 0)
        if used + rest > self._quota:
            raise self._over_quota(used)
        if shutil.disk_usage(self._folder).free - rest < self._reserve:
            raise _disk_full()

    def _over_quota(self, used: int) -> ExhaustedError:
        return ExhaustedError(
            f"the uploads of the project have {used:,} of at most {self._quota:,} bytes; delete "
            "some first",
            reason="UPLOAD_QUOTA",
        )

    def _read(self, folder: Path) -> Upload:
        """An upload by its folder."""
        path = folder / "header.json"
        values = json.loads(path.read_bytes())
        values.pop("created_at")
        used_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return Upload(
            header=Header(**values),
            folder=folder,
            received_bytes=_size(folder),
            expires_at=used_at + self._life,
        )

    def _expired(self, folder: Path) -> bool:
        header = folder / "header.json"
        used_at = (header if header.exists() else folder).stat().st_mtime
        return used_at + self._life.total_seconds() < time.time()

    def _remove(self, folder: Path) -> None:
        # Renamed first: the upload is there as a whole or not at all.
        doomed = folder.with_name(f".{secrets.token_hex(8)}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _of(self, project: str) -> Path:
        return self._folder / (project or NO_PROJECT)

    def _projects(self) -> list[str]:
        names = [folder.name for folder in _folders(self._folder)]
        return [name for name in names if name != NO_PROJECT]


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk as the error of a call."""
    try:
        yield
    except OSError as error:
        if files.is_full(error):
            raise _disk_full() from None
        raise


async def remove_expired(stage: Stage) -> None:
    """Removes expired uploads for as long as the service runs, ten times in their life."""
    assert isinstance(stage.config, Config)
    uploads = Uploads(stage.home / FOLDER, stage.config)
    pause = min(3_600.0, max(0.1, stage.config.upload_days * 8_640.0))
    while True:
        try:
            count, _ = await asyncio.to_thread(uploads.remove_expired)
            if count:
                logger.info("removed %s expired uploads", count)
        except OSError as error:
            logger.error("expired uploads cannot be removed: %s", error.strerror)
        await asyncio.sleep(pause)


@contextlib.contextmanager
def _locked(folder: Path, upload_id: str) -> Iterator[None]:
    """Locks the folder of an upload.

    Raises:
        BusyError: Another call has locked it.
        NotFoundError: It was deleted.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise NotFoundError(f"no upload {upload_id}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_current = os.path.samestat(os.fstat(descriptor), os.stat(folder))
        except OSError:
            is_current = False
        if not is_current:
            raise BusyError(
                f"another call sends or deletes upload {upload_id}; wait until it has ended",
                reason="UPLOAD_BUSY",
            )
        yield
    finally:
        os.close(descriptor)


def _disk_full() -> ExhaustedError:
    return ExhaustedError(
        "the disk for uploads is nearly full; delete uploads, or ask the operator for space",
        reason="DISK_FULL",
    )


def _size(folder: Path) -> int:
    """The bytes of an upload that are there."""
    # In this order: the part becomes the whole at any moment.
    with contextlib.suppress(FileNotFoundError):
        return (folder / "part").stat().st_size
    with contextlib.suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in (folder / "whole").iterdir())
    return 0


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
