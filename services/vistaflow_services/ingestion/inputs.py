"""The files that callers name: in the data roots, or uploaded."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, cast

from vistaflow_services.core import config as configuration
from vistaflow_services.core.errors import FieldViolation, InvalidError, NotFoundError, Violations
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.uploads import FOLDER, SCHEME, Uploads
from vistaflow_services.stores.roots import Input, Roots
from vistaflow_services.tables.sources import Aes, Source

MAX_FILES: Final = 1_000
"""Most inputs of one request."""


class Inputs:
    """Finds what callers name.

    Args:
        roots: The data roots that the operator declares.
        uploads: The files that callers sent.
    """

    def __init__(self, roots: Roots, uploads: Uploads) -> None:
        self.roots = roots
        self._uploads = uploads

    @classmethod
    def load(cls, home: Path, config: Config) -> Inputs:
        """The inputs of this installation: those of its environment and of its home."""
        return cls(Roots.parse(configuration.data_roots()), Uploads(home / FOLDER, config))

    def find(self, name: str, project: str, field: str) -> Input:
        """The input that a caller names.

        Args:
            name: In a data root as `Roots.resolve` takes it, or `upload:ID`.
            project: The caller's.
            field: Where it is in the request, for messages.

        Raises:
            InvalidError: The name is malformed or leads out of the roots.
            NotFoundError: There is no such file for the project; its violation names the field.
            ConflictError: The upload is not complete.
        """
        try:
            if name.startswith(SCHEME):
                return self._uploads.input(name, project, field)
            return self.roots.resolve(name, project, field)
        except NotFoundError as error:
            violation = FieldViolation(field=field, description=error.message)
            raise NotFoundError(error.message, violations=[violation]) from None

    def find_all(
        self, names: Sequence[str], project: str, field: str = "file_names"
    ) -> list[Input]:
        """The inputs that a request names, 1 to `MAX_FILES`.

        Raises:
            InvalidError: One violation for each name that is malformed or leads out of the roots.
            NotFoundError: One violation for each file that is not there for the project.
            ConflictError: An upload is not complete.
        """
        violations, missing = Violations(), list[NotFoundError]()
        if not 1 <= len(names) <= MAX_FILES:
            violations.add(field, f"{len(names):,} given; 1 to {MAX_FILES:,} may be")
        inputs = []
        for index, name in enumerate(names[:MAX_FILES]):
            try:
                inputs.append(self.find(name, project, f"{field}[{index}]"))
            except NotFoundError as error:
                missing.append(error)
            except InvalidError as error:
                violations.extend("", error)
        for absence in missing if violations else ():
            violations.extend("", absence)
        violations.check()
        if missing:
            every = [violation for absence in missing for violation in absence.violations]
            raise NotFoundError(missing[0].message, violations=every)
        return inputs


def source_of(entry: Input, aes: Aes | None) -> Source:
    """An input as a source of a conversion."""
    if entry.root.folder is None:
        size, version = _object(entry)
    else:
        with entry.opened("file_names") as file:
            status = os.fstat(file.fileno())
        size, version = status.st_size, str(status.st_mtime_ns)
    return Source(
        name=entry.name,
        open=functools.partial(opened, entry),
        size=size,
        aes=aes,
        version=version,
    )


def _object(entry: Input) -> tuple[int, str]:
    """Size and version of an object of a bucket."""
    import obstore

    from vistaflow_services.stores.bucket import failures
    from vistaflow_services.stores.inputs import client_of

    with failures(entry.root.name):
        try:
            meta = obstore.head(client_of(entry, "file_names"), str(entry.path))
        except FileNotFoundError:
            raise _unreadable(entry) from None
    return meta["size"], meta["e_tag"] or meta["last_modified"].isoformat()


def opened(entry: Input) -> BinaryIO:
    """The file of an input, which the caller closes.

    Raises:
        NotFoundError: It is not there any more.
        InvalidError: It is no file, or a link leads out of the root.
    """
    if entry.root.folder is None:
        return cast(BinaryIO, _Remote(entry))
    with ExitStack() as stack:
        file = stack.enter_context(entry.opened("file_names"))
        return cast(BinaryIO, _Held(file, stack.pop_all()))


def _unreadable(entry: Input) -> NotFoundError:
    return NotFoundError(
        f"{entry.name} cannot be read; look for the name in the bucket, and ask the operator for "
        "the credentials of its root"
    )


class _Held:
    """A file that ends the context it came from when it is closed."""

    def __init__(self, file: BinaryIO, stack: ExitStack) -> None:
        self.read, self.seek, self._stack = file.read, file.seek, stack

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Remote:
    """An object of a bucket as a file: read in ranges, none of it on disk."""

    def __init__(self, entry: Input) -> None:
        # obstore takes long to import, and most inputs are files.
        import obstore
        from obstore import exceptions

        from vistaflow_services.stores.bucket import failures
        from vistaflow_services.stores.inputs import client_of

        self._failures = functools.partial(failures, entry.root.name)
        store = client_of(entry, "file_names")
        try:
            self._file = obstore.open_reader(store, str(entry.path), buffer_size=4 << 20)
        except (exceptions.BaseError, OSError):
            # The library's message holds the bucket and may hold more.
            raise _unreadable(entry) from None

    def read(self, count: int = -1) -> bytes:
        # The bucket may go away in the middle of the object.
        with self._failures():
            return bytes(self._file.read(None if count < 0 else count))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
