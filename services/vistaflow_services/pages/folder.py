"""The files of a collection, in one folder for all attempts of its job.

    content/ab/cdef…            pages by their SHA-256, until they are in the stores
    extracts/NAME.jsonl         the rows of one page while the job runs
    journal-NUMBER.jsonl        the pages that are done, one file a host
    parts.json, rows_1.jsonl …  the rows
    pages.jsonl                 the manifest of the pages; the last file that is written

A process that is killed leaves whole pages and at most half a line of a journal. The next one goes
through the pages in the same order, and fetches what is in no journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from vistaflow_services.core import files
from vistaflow_services.core.errors import ConflictError
from vistaflow_services.pages.contents import Contents
from vistaflow_services.pages.plan import PAGES, Column, Page, read_pages
from vistaflow_services.stores.blobs import Blob

CONTENT: Final = "content"
PARTS: Final = "parts.json"
PART_ROWS: Final = 300_000
"""Rows of a full part."""

LOCK_SECONDS: Final = 60.0
"""How long an attempt waits for the end of the one before, which is being killed."""

_BATCH: Final = 10_000


class Folder:
    """The folder of a collection.

    Args:
        path: Where it is; made if it is not there.
        contents: Where the pages are kept.
        previous: The folder of the collection before.
    """

    def __init__(self, path: Path, contents: Contents, previous: Path | None = None) -> None:
        self.path = path
        self._contents = contents
        self._previous = previous
        for name in (CONTENT, "extracts"):
            (path / name).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def sole_use(self) -> Iterator[None]:
        """Holds the folder; the lock ends with the process.

        Raises:
            ConflictError: A process of an earlier attempt has it still.
        """
        with (self.path / "lock").open("wb") as lock:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        problem = "another attempt of the job is running still"
                        raise ConflictError(problem) from None
                time.sleep(0.1)
            yield

    def content(self, sha256: str) -> Path:
        """Where a page is."""
        return self.path / CONTENT / sha256[:2] / sha256[2:]

    def put(self, temporary: Path, sha256: str) -> None:
        """Takes a page in."""
        target = self.content(sha256)
        target.parent.mkdir(exist_ok=True)
        files.sync(temporary)
        os.replace(temporary, target)
        files.sync(target.parent)

    def former_pages(self) -> dict[str, Page]:
        """The pages of the collection before, by their address."""
        if self._previous is None:
            return {}
        with suppress(OSError, ValueError, TypeError):
            return {page.url: page for page in read_pages(self._previous / PAGES) if page.sha256}
        return {}

    def has_former(self, sha256: str) -> bool:
        """Whether a page of the collection before is there."""
        return self._contents.has(sha256)

    def take_former(self, sha256: str) -> bool:
        """Takes in a page of the collection before; whether it is there, undamaged."""
        target = self.content(sha256)
        target.parent.mkdir(exist_ok=True)
        return self._contents.take(sha256, target)

    def extract(self, url: str) -> Path:
        """Where the rows of a page are."""
        return self.path / "extracts" / f"{hashlib.sha256(url.encode()).hexdigest()}.jsonl"

    def journal(self, number: int) -> tuple[dict[str, Page], IO[bytes]]:
        """The pages of a host that are done, and the file to add others to."""
        path = self.path / f"journal-{number}.jsonl"
        done = dict[str, Page]()
        file = path.open("ab+")
        file.seek(0)
        end = 0
        for line in file:
            try:
                page = Page.read(json.loads(line))
            except ValueError:
                break
            end += len(line)
            if self.content(page.sha256).exists() and self.extract(page.url).exists():
                done[page.url] = page
        file.truncate(end)  # half a line of a process that was killed
        return done, file

    def write_rows(
        self,
        pages: Iterable[Page],
        format: str,
        columns: Sequence[Column],
    ) -> list[dict[str, Any]]:
        """Writes the rows of all pages as parts.

        Returns:
            For each part its name, rows, size and SHA-256.
        """
        parts, batch, writer = list[dict[str, Any]](), list[bytes](), None
        schema = _schema(columns) if format == "parquet" else None
        for line in self._lines(pages):
            if writer is None:
                writer = _Part(self.path / f"rows_{len(parts) + 1}.{format}", schema)
            batch.append(line)
            if len(batch) == _BATCH or writer.rows + len(batch) == PART_ROWS:
                writer.write(batch)
                batch.clear()
            if writer.rows == PART_ROWS:
                parts.append(writer.close())
                writer = None
        if writer is not None:
            writer.write(batch)
            parts.append(writer.close())
        return parts

    def _lines(self, pages: Iterable[Page]) -> Iterator[bytes]:
        for page in pages:
            if page.sha256 and page.rows:
                with self.extract(page.url).open("rb") as file:
                    yield from file

    def finish(self, pages: Sequence[Page], parts: dict[str, Any]) -> None:
        """Stores the pages, and writes the lists of parts and pages.

        Raises:
            UnavailableError: Too few stores answer; what is here stays.
            ExhaustedError: A store is full.
        """
        paths = {
            Blob(sha256=page.sha256, size_bytes=page.bytes): self.content(page.sha256)
            for page in pages
            if page.sha256
        }
        with self._contents.storing(paths):
            files.write(self.path / PARTS, json.dumps(parts).encode())
            with files.appearing(self.path / PAGES) as temporary, temporary.open("wb") as file:
                for page in pages:
                    file.write(line_of(page.to_dict()))
        self.clear()

    def clear(self) -> None:
        """Removes what only the job needed."""
        for name in (CONTENT, "extracts"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for path in self.path.glob("journal-*.jsonl"):
            path.unlink()


class _Part:
    """A part that is being written."""

    def __init__(self, path: Path, schema: pa.Schema | None) -> None:
        self._path, self._schema, self.rows = path, schema, 0
        self._file: Any = (
            path.open("wb")
            if schema is None
            else pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)
        )

    def write(self, lines: Sequence[bytes]) -> None:
        self.rows += len(lines)
        if self._schema is None:
            self._file.writelines(lines)
        elif lines:
            rows = [_cells(json.loads(line), self._schema) for line in lines]
            self._file.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> dict[str, Any]:
        self._file.close()
        files.sync(self._path)
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "name": self._path.name,
            "rows": self.rows,
            "size_bytes": self._path.stat().st_size,
            "sha256": digest,
        }


def line_of(document: Any) -> bytes:
    """A line of JSON; a half of a surrogate pair becomes a question mark."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _schema(columns: Sequence[Column]) -> pa.Schema:
    kinds: dict[str, Callable[[], pa.DataType]] = {"number": pa.float64}
    return pa.schema([(column.name, kinds.get(column.type, pa.string)()) for column in columns])


def _cells(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """A row with text where the schema has text."""
    return {
        field.name: value
        if value is None or isinstance(value, str) or field.type != pa.string()
        else json.dumps(value, ensure_ascii=False)
        for field in schema
        for value in (row.get(field.name),)
    }
