"""A place for backups: blobs by content, and small files beside them.

    VISTAFLOW_BACKUPS=disk=/mnt/backup/vistaflow,cloud=s3://bucket/vistaflow

A caller names a target by its name or its URL. Credentials come from the environment, as those of
stores do: `CLOUD_AWS_ACCESS_KEY_ID` is for the target `cloud`.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import obstore

from vistaflow_services.core import files
from vistaflow_services.core.errors import ExhaustedError, Violations, field_error
from vistaflow_services.stores.blobs import BlobStore, unavailable
from vistaflow_services.stores.bucket import connect, failures
from vistaflow_services.stores.opening import NAME, aws_variables, bucket_of, folder_of, open_store

VARIABLE = "VISTAFLOW_BACKUPS"

MAX_TARGETS = 20

_FOLDER = "backups"


class Target(ABC):
    """A place for backups.

    Every method may raise `UnavailableError`, and `ExhaustedError` if the place is full.
    """

    def __init__(self, name: str, blobs: BlobStore) -> None:
        self.name = name
        self.blobs = blobs

    @abstractmethod
    def names(self) -> list[str]:
        """The small files, by name."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a small file."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Writes a small file, whole or not at all."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes a small file."""


class FolderTarget(Target):
    """A folder."""

    def __init__(self, name: str, blobs: BlobStore, folder: Path) -> None:
        super().__init__(name, blobs)
        self._folder = folder / _FOLDER

    def names(self) -> list[str]:
        """The files in the folder."""
        with self._failures():
            self._folder.parent.stat()
            return sorted(path.name for path in self._folder.glob("*.json"))

    def read(self, name: str) -> bytes:
        """Reads the file."""
        with self._failures():
            return (self._folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Writes under another name, syncs and renames."""
        with self._failures():
            # One that contains it must exist: a disk that is gone is no empty one.
            self._folder.mkdir(exist_ok=True)
            files.write(self._folder / name, content)

    def remove(self, name: str) -> None:
        """Removes the file."""
        with self._failures():
            (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if files.is_full(error):
                raise full(self.name) from None
            problem = os.strerror(error.errno) if error.errno else "cannot be used"
            raise unavailable(self.name, f"cannot be used: {problem}") from None


class BucketTarget(Target):
    """A folder of a bucket."""

    def __init__(self, name: str, blobs: BlobStore, url: str, environment: Mapping[str, str]):
        super().__init__(name, blobs)
        bucket, prefix = bucket_of(url, "targets")
        self._store = connect(name, bucket, prefix, aws_variables(name, environment))

    def names(self) -> list[str]:
        """Lists the objects."""
        with failures(self.name):
            pages = obstore.list(self._store, _FOLDER)
            return sorted(Path(meta["path"]).name for page in pages for meta in page)

    def read(self, name: str) -> bytes:
        """Gets the object."""
        with failures(self.name):
            return bytes(obstore.get(self._store, f"{_FOLDER}/{name}").bytes())

    def write(self, name: str, content: bytes) -> None:
        """Puts the object."""
        with failures(self.name):
            obstore.put(self._store, f"{_FOLDER}/{name}", content, use_multipart=False)

    def remove(self, name: str) -> None:
        """Deletes the object."""
        with failures(self.name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, f"{_FOLDER}/{name}")


def full(name: str) -> ExhaustedError:
    """The error of a target that has no room."""
    return ExhaustedError(
        f"target {name} is full; free space there, or keep fewer backups", reason="TARGET_FULL"
    )


def declared_targets(text: str) -> dict[str, str]:
    """The targets of `VISTAFLOW_BACKUPS`: URLs by name.

    Raises:
        InvalidError: One violation for each entry that is malformed. Values are not repeated, as
            they may contain credentials.
    """
    violations, urls = Violations(), dict[str, str]()
    for number, entry in enumerate(filter(None, map(str.strip, text.split(",")))):
        field = f"{VARIABLE}[{number}]"
        name, equals, url = entry.partition("=")
        if not equals or not NAME.fullmatch(name) or name in urls:
            violations.add(field, "is not name=/path or name=s3://bucket/prefix, each name once")
            continue
        if folder_of(url) is None:
            bucket_of(url, field)
        urls[name] = url
    violations.check()
    return urls


def chosen_targets(named: Sequence[str], declared: Mapping[str, str]) -> dict[str, str]:
    """The declared targets that a caller names, by name or URL.

    Raises:
        InvalidError: One violation for each that is not declared, or is named twice.
    """
    violations, chosen = Violations(), dict[str, str]()
    if not 1 <= len(named) <= MAX_TARGETS:
        violations.add("spec.targets", f"{len(named)} given; 1 to {MAX_TARGETS} may be")
    by_url = {_plain(url): name for name, url in declared.items()}
    known = ", ".join(sorted(declared)) or "none"
    for number, text in enumerate(named[:MAX_TARGETS]):
        name = text if text in declared else by_url.get(_plain(text))
        if name is None:
            violations.add(
                f"spec.targets[{number}]",
                f"is no target that the operator declares in {VARIABLE}; declared are: {known}",
            )
        elif name in chosen:
            violations.add(f"spec.targets[{number}]", "is there twice")
        else:
            chosen[name] = declared[name]
    violations.check()
    return chosen


def open_target(
    name: str, url: str, environment: Mapping[str, str] = os.environ, *, existing: bool = False
) -> Target:
    """Opens a target.

    Args:
        name: What messages call it.
        url: Where it is.
        environment: Has the credentials.
        existing: Whether it must have backups already; then nothing is made there.

    Raises:
        InvalidError: The URL is malformed, or there are no backups.
        UnavailableError: It cannot be used.
    """
    folder = folder_of(url)
    if folder is not None:
        if existing and not (folder / _FOLDER).is_dir():
            raise field_error("from", "is no target of backups: it has no folder `backups`")
        return FolderTarget(name, open_store(name, url, environment), folder)
    return BucketTarget(name, open_store(name, url, environment), url, environment)


def _plain(url: str) -> str:
    return url.removeprefix("file://").rstrip("/")
