"""The journal of a conversion: what is needed to go on after the process was killed.

A checkpoint replaces the one before, whole or not at all. It is written only after the parts that
it speaks of are on disk; what was written after it is cut off when the conversion goes on. It
holds no key, and no value of the input except names of fields.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistaflow_services.core.errors import ConflictError
from vistaflow_services.core.files import write

_VERSION = 2


class Journal:
    """The journal in a work folder.

    Args:
        folder: Work folder; made if it is not there.
        identity: What the conversion is of; a journal of something else is ignored.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._path = folder / "journal.json"
        self._identity = identity

    def read(self) -> dict[str, Any] | None:
        """The last checkpoint, or None if there is none of this conversion."""
        try:
            document = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if document.get("version") != _VERSION or document.get("identity") != self._identity:
            return None
        state: dict[str, Any] = document["state"]
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint."""
        document = {"version": _VERSION, "identity": self._identity, "state": state}
        write(self._path, json.dumps(document).encode("utf-8", "surrogatepass"))


@contextlib.contextmanager
def sole_use(folder: Path, name: str) -> Iterator[None]:
    """Holds a work folder; the lock ends with the process.

    Raises:
        ConflictError: Another conversion has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"another conversion to {name} is running; wait for it or choose another name"
            ) from None
        yield
    finally:
        os.close(descriptor)
