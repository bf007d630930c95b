"""The unfinished parts of a conversion: rows in, files in the work folder out.

A part is written under a temporary name, as CSV, as an Arrow stream to be made Parquet, or both.
It holds exactly `max_csv_rows` rows if it is full. When a column appears in the middle of a part,
the rows before it lack the column; the part remembers where, and `publication` adds the empty
cells. Everything that is written is appended, so that a part goes back to a checkpoint by being
cut off there.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from vistaflow_services.core.files import sync
from vistaflow_services.tables.conversion import Conversion
from vistaflow_services.tables.engines import Rows
from vistaflow_services.tables.formulas import guarded

BOM = b"\xef\xbb\xbf"


@dataclass(kw_only=True)
class OpenPart:
    """One part, as it is in the journal."""

    table: str
    number: int
    rows: int = 0
    csv_bytes: int = 0
    csv_changes: list[tuple[int, int]] = field(default_factory=list)
    """Where the number of columns changed: offset in the CSV file, columns from there on. The
    first offset is behind the header, which has the columns of the first rows."""

    arrow_bytes: int = 0
    full: bool = False

    @property
    def stem(self) -> str:
        """Name of its files in the work folder, without ending. A table's path may be no name."""
        return f"{self.table.encode().hex()[:64] or 'records'}-{self.number}"


class Parts:
    """All parts of one sequence.

    Args:
        folder: Work folder; made if it is not there.
        options: Rows a part, delimiter, formula guard, formats.
        parts: The parts of the checkpoint where the conversion goes on.
    """

    def __init__(self, folder: Path, options: Conversion, parts: list[OpenPart]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.parts = parts
        self._folder = folder
        self._options = options
        tables = dict.fromkeys(part.table for part in parts)
        self._order = {table: number for number, table in enumerate(tables)}
        self._open = {part.table: part for part in parts if not part.full}
        self._files: dict[Path, pa.OSFile] = {}
        self._write_options = pacsv.WriteOptions(
            include_header=False, batch_size=1 << 14, delimiter=options.delimiter
        )
        self._go_back()

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def full(self) -> int:
        """Parts that have all their rows."""
        return sum(part.full for part in self.parts)

    def add(self, rows: Rows) -> None:
        """Appends rows to the parts of their table."""
        columns = list(rows.columns)
        texts = guarded(columns) if self._options.formula_guard else columns
        begin = 0
        while begin < rows.count:
            part = self._part(rows.table.path)
            count = min(rows.count - begin, self._options.max_csv_rows - part.rows)
            if self._options.writes_csv:
                self._add_csv(part, rows, [column.slice(begin, count) for column in texts])
            if self._options.writes_parquet:
                self._add_arrow(part, rows, [column.slice(begin, count) for column in columns])
            part.rows += count
            begin += count
            if part.rows == self._options.max_csv_rows:
                part.full = True
                del self._open[part.table]

    def path_of(self, part: OpenPart, ending: str) -> Path:
        """Where a part is in the work folder; the ending is `csv` or `arrow`."""
        return self._folder / f"{self._order[part.table]}-{part.stem}.{ending}"

    def sync(self) -> None:
        """Makes sure that all that was written is on disk; full parts are closed."""
        live = {self.path_of(part, end) for part in self._open.values() for end in _ENDINGS}
        for path, file in list(self._files.items()):
            os.fsync(file.fileno())
            if path not in live:
                file.close()
                del self._files[path]
        sync(self._folder)

    def close(self) -> None:
        """Closes all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def to_json(self) -> list[dict[str, Any]]:
        """The parts, for the journal."""
        return [asdict(part) for part in self.parts]

    @staticmethod
    def from_json(document: list[dict[str, Any]]) -> list[OpenPart]:
        """The parts that `to_json` wrote."""
        parts = [OpenPart(**part) for part in document]
        for part in parts:
            part.csv_changes = [(offset, count) for offset, count in part.csv_changes]
        return parts

    def _go_back(self) -> None:
        """Removes what was written after the checkpoint."""
        sizes: dict[Path, int] = {}
        for part in self.parts:
            sizes[self.path_of(part, "csv")] = part.csv_bytes
            sizes[self.path_of(part, "arrow")] = part.arrow_bytes
        for path in self._folder.iterdir():
            size = sizes.get(path, 0)
            if not size:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)

    def _part(self, table: str) -> OpenPart:
        part = self._open.get(table)
        if part is None:
            self._order.setdefault(table, len(self._order))
            number = 1 + sum(other.table == table for other in self.parts)
            part = self._open[table] = OpenPart(table=table, number=number)
            self.parts.append(part)
        return part

    def _file(self, part: OpenPart, ending: str) -> pa.OSFile:
        path = self.path_of(part, ending)
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = pa.OSFile(str(path), "ab")
        return file

    def _add_csv(self, part: OpenPart, rows: Rows, columns: list[pa.Array]) -> None:
        file = self._file(part, "csv")
        if not part.csv_changes:
            part.csv_bytes += file.write(csv_head(rows.table.header[: len(columns)], self._options))
        if not part.csv_changes or part.csv_changes[-1][1] != len(columns):
            part.csv_changes.append((part.csv_bytes, len(columns)))
        names = [str(number) for number in range(len(columns))]
        before = file.tell()
        pacsv.write_csv(pa.record_batch(columns, names=names), file, self._write_options)
        part.csv_bytes += file.tell() - before

    def _add_arrow(self, part: OpenPart, rows: Rows, columns: list[pa.Array]) -> None:
        # Each piece is a stream of its own, because its columns may be more than before.
        batch = pa.record_batch(columns, names=rows.table.header[: len(columns)])
        file = self._file(part, "arrow")
        before = file.tell()
        compression = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(file, batch.schema, options=compression) as stream:
            stream.write_batch(batch)
        part.arrow_bytes += file.tell() - before


_ENDINGS = ("csv", "arrow")


def csv_head(header: list[str], options: Conversion) -> bytes:
    """What a CSV part begins with."""
    text = io.StringIO()
    csv.writer(
        text, delimiter=options.delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n"
    ).writerow(header)
    return BOM * options.byte_order_mark + text.getvalue().encode()


def csv_body(path: Path, part: OpenPart, columns: int, delimiter: str) -> Iterator[bytes]:
    """The rows of a part, each with the final number of columns."""
    with path.open("rb") as file:
        ends = [offset for offset, _ in part.csv_changes[1:]] + [part.csv_bytes]
        for (begin, count), end in zip(part.csv_changes, ends, strict=True):
            file.seek(begin)
            if count == columns:
                rest = end - begin
                while rest and (chunk := file.read(min(rest, 1 << 20))):
                    rest -= len(chunk)
                    yield chunk
                continue
            padding = delimiter.encode() * (columns - count) + b"\n"
            position, quotes = begin, 0
            while position < end:
                line = file.readline()
                position += len(line)
                # A line end inside quotes belongs to a cell.
                quotes += line.count(b'"')
                yield line if quotes % 2 else line[:-1] + padding
