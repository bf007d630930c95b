"""`running.arrow`: the rows of a job under way, beside what its attempt will publish.

An Arrow IPC stream that grows by a batch at a time: readers get the batches that are
whole, also of an attempt that was killed. A later attempt of the same job begins a journal of its
own; until that is longer, the earlier one is read, if both attempts had the same to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from vistaflow_services.core.work.attempt import Attempt

NAME: Final = "running.arrow"
"""Its file in the attempt's folder."""

LEAST_SECONDS: Final = 0.1
MOST_SECONDS: Final = 2.0
"""Least time between two batches: a fiftieth of the job's, within these."""

_TASK: Final = b"vistaflow.task"
"""Where the metadata of the stream says what the attempt had to do."""


class Journal:
    """Writes the rows of one attempt.

    Args:
        folder: The attempt's.
        task: What it has to do, such as its spec; attempts with another one are not compared.
    """

    def __init__(self, folder: Path, task: bytes = b"") -> None:
        self._path = folder / NAME
        self._task = hashlib.sha256(task).hexdigest().encode()
        self._closing = contextlib.ExitStack()
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        self._schema: pa.Schema | None = None
        self._began = self._wrote = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last batch, or since the job began."""
        now = time.monotonic()
        pause = min(max((now - self._began) / 50, LEAST_SECONDS), MOST_SECONDS)
        return now - self._wrote >= pause

    def write(self, rows: pa.Table) -> None:
        """Adds rows, which are there for readers at once; all have the columns of the first."""
        if not rows.num_rows:
            return
        if self._writer is None:
            file = self._closing.enter_context(self._path.open("wb", buffering=0))
            self._schema = rows.schema.with_metadata({_TASK: self._task})
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            self._writer = pa.ipc.new_stream(file, self._schema, options=options)
        # The first batch decides the types: a later one may hold nothing but nulls in a column.
        self._writer.write_table(rows.cast(self._schema))
        self._wrote = time.monotonic()

    def close(self) -> None:
        """Ends it."""
        self._closing.close()


def journal_of(attempt: Attempt) -> Journal:
    """The journal of an attempt, whose task are its spec and the results that it reads."""
    inputs = sorted((name, read.job_id, read.attempt) for name, read in attempt.inputs.items())
    spec = attempt.spec.SerializeToString(deterministic=True)
    return Journal(attempt.folder, spec + repr(inputs).encode())


def discard(attempt: Attempt) -> None:
    """Deletes the journal of an attempt whose rows were published."""
    (attempt.folder / NAME).unlink(missing_ok=True)


def read_journal(job: Path, *, offset: int = 0, limit: int = 0) -> list[dict[str, Any]]:
    """The rows that a job has so far, from `offset` on, at most `limit` (0: all).

    Args:
        job: The folder of its attempts.
        offset: Rows to skip.
        limit: Most rows to read.
    """
    rows: list[dict[str, Any]] = []
    for batch in _longest(job):
        if offset >= batch.num_rows:
            offset -= batch.num_rows
            continue
        rows += batch.slice(offset, limit - len(rows) if limit else None).to_pylist()
        offset = 0
        if limit and len(rows) >= limit:
            break
    return rows


def _longest(job: Path) -> Iterable[pa.RecordBatch]:
    """The batches of the longest journal among the attempts that had to do what the newest has."""
    newest: bytes | None = None
    longest: list[pa.RecordBatch] = []
    for path in sorted(job.glob(f"*/{NAME}"), key=lambda path: -int(path.parent.name)):
        with contextlib.suppress(OSError, pa.ArrowInvalid), path.open("rb") as file:
            reader = pa.ipc.open_stream(file)
            task = (reader.schema.metadata or {}).get(_TASK)
            newest = newest or task
            if task == newest:
                batches = list(_whole(reader))
                if _count(batches) > _count(longest):
                    longest = batches
    return longest


def _whole(reader: pa.ipc.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    """Batches up to one that is not complete yet."""
    with contextlib.suppress(OSError, pa.ArrowInvalid):
        yield from reader


def _count(batches: Iterable[pa.RecordBatch]) -> int:
    return sum(batch.num_rows for batch in batches)
