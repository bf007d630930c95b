"""Stored results: pages of Parquet files in the formats of FetchResult.

A result is read a row group at a time, so memory is that of one row group and of one message,
whatever its size. Row groups that lie before the first row are skipped by the file's footer.

Text formats write every value exactly: decimals with all their digits, whole numbers of any size,
times with their zone, years before 1 and after 9999 in ISO 8601's long form such as
`+012026-12-01`. CSV has nothing between the delimiters for NULL and `""` for an empty text;
lists and structs are JSON in it. JSON has null for NaN and infinities.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from vistaflow._rows import python_values

CHUNK_BYTES: Final = 1 << 20
"""Most bytes of one message."""

BATCH_ROWS: Final = 16_384
"""Most rows that are encoded at once."""

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str)

_WRITTEN: Final = (
    pa.types.is_string,
    pa.types.is_floating,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_null,
)
"""Types that the CSV writer writes as they are wanted."""

Chunk = tuple[bytes, int]
"""Bytes of a stream, and the rows of it whose bytes end with them."""


@dataclass(frozen=True, kw_only=True)
class PagePart:
    """A Parquet file of a result."""

    rows: int
    open: Callable[[], pa.NativeFile]
    """Opens it, wherever it is; the caller closes it."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a result."""

    parts: Sequence[PagePart]
    """Its files, in the order of the rows."""

    offset: int = 0
    """Rows to leave out first."""

    limit: int = 0
    """Most rows; 0 for all."""

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        first, rows = self.parts[0], 0
        # Of the part that is read first, as another one may have to be downloaded for it.
        for part in self.parts:
            first, rows = part, rows + part.rows
            if rows > self.offset:
                break
        with first.open() as file:
            return pq.read_schema(file).remove_metadata()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order."""
        offset, left = self.offset, self.limit or None
        for part in self.parts:
            if offset >= part.rows:
                offset -= part.rows
                continue
            with part.open() as source, pq.ParquetFile(source) as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if offset >= rows:
                        offset -= rows
                        continue
                    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                        skipped = min(offset, batch.num_rows)
                        offset -= skipped
                        piece = batch.slice(skipped, left)
                        if piece.num_rows:
                            yield piece
                        left = None if left is None else left - piece.num_rows
                        if left == 0:
                            return


def first_page(
    encode: Callable[[Rows], Iterator[Chunk]],
    parts: Sequence[PagePart],
    rows: int,
    most_bytes: int,
) -> tuple[bytes, int]:
    """The first rows in a format, as many as fit, and how many they are.

    Args:
        encode: One of the functions below.
        parts: The files of the result.
        rows: Most rows.
        most_bytes: Most bytes.
    """
    while rows:
        data = b"".join(chunk for chunk, _ in encode(Rows(parts=parts, limit=rows)))
        if len(data) <= most_bytes:
            return data, rows
        rows //= 2
    return b"", 0


def arrow(rows: Rows) -> Iterator[Chunk]:
    """Rows as an Arrow IPC stream."""
    schema = rows.schema
    return _written(lambda sink: pa.ipc.new_stream(sink, schema), rows)


def parquet(rows: Rows) -> Iterator[Chunk]:
    """Rows as a Parquet file; all rows of one file are that file itself."""
    if not rows.offset and not rows.limit and len(rows.parts) == 1:
        with rows.parts[0].open() as file:
            while block := file.read(CHUNK_BYTES):
                yield block, 0
        return
    schema = rows.schema
    yield from _written(lambda sink: pq.ParquetWriter(sink, schema, compression="zstd"), rows)


def csv(rows: Rows, *, header: bool = True) -> Iterator[Chunk]:
    """Rows as CSV in UTF-8; a line feed ends each."""
    if header:
        names = ['"' + name.replace('"', '""') + '"' for name in rows.schema.names]
        yield (",".join(names) + "\n").encode(), 0
    options = pyarrow.csv.WriteOptions(include_header=False)
    for batch in rows.batches():
        sink = io.BytesIO()
        texts = pa.RecordBatch.from_arrays(
            [_csv_column(column) for column in batch.columns], names=batch.schema.names
        )
        pyarrow.csv.write_csv(texts, sink, options)
        yield from _chunks(sink.getvalue(), batch.num_rows)


def json(rows: Rows, *, arrays: bool = False) -> Iterator[Chunk]:
    """Rows as one JSON value a line: objects, or arrays in the order of the columns."""
    for batch in rows.batches():
        columns = [_python(column) for column in batch.columns]
        names = batch.schema.names
        lines = [
            _ENCODER.encode(row if arrays else dict(zip(names, row, strict=True)))
            for row in zip(*columns, strict=True)
        ]
        yield from _chunks(b"\n".join(lines) + b"\n", batch.num_rows)


def _written(writer_of: Callable[[Any], Any], rows: Rows) -> Iterator[Chunk]:
    """What a writer writes of rows, while it writes."""
    sink = _Sink()
    with writer_of(pa.PythonFile(sink, mode="w")) as writer:
        for batch in rows.batches():
            writer.write_batch(batch)
            yield from sink.chunks(CHUNK_BYTES // 2)
    yield from sink.chunks(1)


class _Sink(io.RawIOBase):
    """What was written and not yet sent."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        # The writer uses its memory again.
        self._pieces.append(bytes(data))
        self._size += len(data)
        self._position += len(data)
        return len(data)

    def chunks(self, least: int) -> Iterator[Chunk]:
        """All that was written, if it is not less than `least` bytes."""
        if self._size >= least:
            data = b"".join(self._pieces)
            self._pieces, self._size = [], 0
            yield from _chunks(data, 0)


def _chunks(data: bytes, rows: int) -> Iterator[Chunk]:
    """Bytes of some rows in chunks; the rows end with the last."""
    for start in range(0, len(data), CHUNK_BYTES):
        is_last = start + CHUNK_BYTES >= len(data)
        yield data[start : start + CHUNK_BYTES], rows if is_last else 0


def _csv_column(column: pa.Array) -> pa.Array:
    """A column as the CSV writer takes it."""
    kind = column.type
    if any(is_kind(kind) for is_kind in _WRITTEN):
        return column
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind) and not _is_far(column):
        return pc.cast(column, pa.string())
    texts = (None if value is None else _text(value) for value in _python(column))
    return pa.array(texts, pa.string())


def _text(value: Any) -> str:
    """A value as text: lists and structs as JSON, bytes in base64."""
    if isinstance(value, list | dict):
        return _ENCODER.encode(value).decode()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _python(column: pa.Array) -> list[Any]:
    """The values of a column; times that Python does not have as text."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = pc.cast(column, pa.string())
    if pa.types.is_map(kind):
        return [None if value is None else dict(value) for value in python_values(column)]
    return python_values(column)


def _is_far(column: pa.Array) -> bool:
    """Whether a column has a date or time that Python does not have."""
    kind = column.type
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return False
    try:
        pc.min_max(column).as_py()
    except (OverflowError, ValueError):
        return True
    return False
