"""What the clients of a run saw: one file of JSON lines each, written as it happens."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Recorder:
    """Writes the history of one client. Every line is on its way to the disk at once.

    Args:
        folder: Where the histories of the run lie.
        client: The client's name, and its file's.
    """

    def __init__(self, folder: Path, client: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{client}.jsonl").open("a", buffering=1)
        self.client = client

    def note(self, op: str, **what: Any) -> None:
        """Records an operation; times are of the machine's monotonic clock."""
        record = {"client": self.client, "op": op, **what}
        record.setdefault("end", time.monotonic())
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Record]:
    """The records of one file; a last line that a kill cut short is left out."""
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def clients(folder: Path) -> dict[str, list[Record]]:
    """The histories of a run, by client."""
    return {path.stem: list(read(path)) for path in sorted(folder.glob("*.jsonl"))}


def digest(tasks: Iterable[tuple[str, int]]) -> int:
    """Stands for the names of a job's tasks and the revisions of their latest rows."""
    return zlib.crc32(repr(sorted(tasks)).encode())
