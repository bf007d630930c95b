"""Outputs of conversions in buckets: written to a folder first, then put, the manifest last.

Of the conversions of one installation to one name in a bucket, one runs at a time: it locks a
byte of a file in the artifact store, whose place is the hash of the name. The lock ends with its
process, so nothing has to be cleared away, and servers that know no put-if-absent are as safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import obstore
from obstore.store import S3Store

from vistaflow_services.core.errors import ConflictError, ExistsError
from vistaflow_services.stores.bucket import CONCURRENCY, SINGLE_BYTES, failures
from vistaflow_services.stores.inputs import client_of
from vistaflow_services.stores.roots import Input
from vistaflow_services.tables.conversion import Converted, Hooks

FIELD: Final = "output"

LOCKS: Final = "outputs.lock"
"""The file in the artifact store that `BucketOutput.sole_use` locks."""

_PUT: Final = ".put"
"""The file with the names of the parts that are in the bucket, for an attempt after this one."""


class BucketOutput:
    """The files of one conversion in a bucket. Objects appear whole or not at all.

    Args:
        place: The folder in the bucket.
        manifest_name: The manifest of the conversion.
        identity: What tells the conversion from others, as in its manifest.
    """

    def __init__(self, place: Input, manifest_name: str, identity: str) -> None:
        self._place = place
        self._manifest_name = manifest_name
        self._identity = identity
        self._store: S3Store = client_of(place, FIELD)

    @contextlib.contextmanager
    def sole_use(self, file: Path) -> Iterator[None]:
        """Keeps other processes from the same name in the bucket.

        Args:
            file: What is locked; the same file in all processes.

        Raises:
            ConflictError: Another conversion to the name is running.
        """
        target = f"{self._place.url}\n{self._manifest_name}"
        offset = int.from_bytes(hashlib.sha256(target.encode()).digest()[:7])
        with file.open("ab") as locks:
            try:
                fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except OSError:
                raise ConflictError(
                    f"another conversion to {self._place.name} of this name is running; wait for "
                    "it or choose another name"
                ) from None
            yield

    def check(self) -> None:
        """Looks whether the bucket has another conversion of this name.

        Raises:
            ExistsError: It has one.
            UnavailableError: The bucket does not answer.
        """
        with failures(self._place.root.name):
            try:
                content = bytes(obstore.get(self._store, self._key(self._manifest_name)).bytes())
            except FileNotFoundError:
                return
        try:
            identity = json.loads(content)["identity"]
        except (ValueError, TypeError, KeyError):
            identity = ""
        if identity != self._identity:
            raise ExistsError(
                f"{self._place.name} has {self._manifest_name} already; choose another name"
            )

    def put(self, folder: Path, converted: Converted, hooks: Hooks) -> None:
        """Copies the parts, then the manifest. A call after a kill goes on where it ended.

        Memory is that of the parts of one upload: 32 MiB.
        """
        self.check()
        with (folder / _PUT).open("a+", encoding="utf-8") as file:
            file.seek(0)
            done = set(file.read().splitlines())
            for part in converted.parts:
                if part.file_name in done:
                    continue
                hooks.check()
                self._put(folder / part.file_name)
                file.write(f"{part.file_name}\n")
                file.flush()
        self._put(folder / converted.manifest_name)

    def _put(self, path: Path) -> None:
        with failures(self._place.root.name):
            obstore.put(
                self._store,
                self._key(path.name),
                path,
                use_multipart=path.stat().st_size > SINGLE_BYTES,
                chunk_size=SINGLE_BYTES,
                max_concurrency=CONCURRENCY,
            )

    def _key(self, name: str) -> str:
        return str(self._place.path / name)
