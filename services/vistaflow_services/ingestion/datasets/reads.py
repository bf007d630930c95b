"""Rows of datasets as streams of bytes, for ReadDataset.

The steps of all reads are done by a few threads, one step after the other for each read: a caller
that takes its time holds no thread, and up to `STALL_SECONDS` its place among the open reads.
Memory is bounded by the engines of `THREADS` steps with `MEMORY_BYTES` each, and by a batch of
16 MiB and its encoded form for each of `MAX_OPEN` reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.errors import TooSlowError
from vistaflow_services.core.message_limits import MEBIBYTE
from vistaflow_services.datasets import reader
from vistaflow_services.datasets.engine import Engine, named
from vistaflow_services.datasets.manifest import Table
from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.tables.formulas import guarded

MAX_OPEN = 32
"""Reads that are open at once; others wait in the order in which they came."""

STALL_SECONDS = 600.0
"""Longest time for a caller to take a piece."""

THREADS = 4
MEMORY_BYTES = 256 << 20

END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""What ends an Arrow IPC stream."""

JSON_CELLS = 1 << 18
"""Cells that are made JSON at once: each has the name of its column."""

Result = TypeVar("Result")


class Reads:
    """Reads rows for callers.

    Args:
        store: Where the files are.
        folder: For temporary files; made if it is not there.
    """

    def __init__(self, store: BlobStore, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._store = store
        self._folder = folder
        self._open = asyncio.Semaphore(MAX_OPEN)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="reads")

    async def stream(
        self, table: Table, request: pb.ReadDatasetRequest
    ) -> AsyncGenerator[bytes, None]:
        """The rows that a request asks for, encoded, in pieces of at most 1 MiB.

        Raises:
            InvalidError: A column or the filter does not fit; before the first piece.
            NotFoundError: A file is not there.
            DataLossError: A file is damaged in every store.
        """
        async with self._open:
            reading = await self._do(lambda: _Reading(table, self._store, self._folder, request))
            try:
                while (piece := await self._do(reading.next_piece)) is not None:
                    yield piece
            finally:
                # Also when the call is canceled: the engine must not go on.
                await asyncio.shield(self._do(reading.close))

    async def _do(self, step: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, step)


async def taken(write: Awaitable[None]) -> None:
    """Waits until a caller has room for a piece.

    Raises:
        TooSlowError: It takes none for `STALL_SECONDS`, and others may need its place.
    """
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await write
    except TimeoutError:
        raise TooSlowError(
            f"no rows were taken for {STALL_SECONDS:g} s; read again from where you are, with "
            "`offset`",
            reason="READ_STALLED",
        ) from None


class _Reading:
    """One read. Each of its methods may be called from any thread."""

    def __init__(
        self, table: Table, store: BlobStore, folder: Path, request: pb.ReadDatasetRequest
    ) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        columns = tuple(request.columns)
        batches = reader.read(
            table,
            store,
            folder,
            columns=columns,
            filter=request.filter,
            offset=request.offset,
            limit=request.limit or None,
            rejects=request.rejects,
            memory_bytes=MEMORY_BYTES,
            opened=self._opened,
        )

        def schema() -> pa.Schema:
            return reader.schema(table, folder, columns=columns, rejects=request.rejects)

        encode = _ENCODINGS[request.encoding]
        if encode is csv_parts and request.HasField("formula_guard") and not request.formula_guard:
            encode = functools.partial(csv_parts, with_guard=False)
        self._pieces = _pieces(batches, schema, encode, folder)

    def next_piece(self) -> bytes | None:
        """The next bytes; None at the end."""
        with self._lock:
            return next(self._pieces, None)

    def close(self) -> None:
        """Ends the step that is being done, and the read."""
        while not self._lock.acquire(timeout=0.05):
            # Again and again, as one statement may follow another.
            if self._engine is not None:
                self._engine.interrupt()
        try:
            self._pieces.close()
        finally:
            self._lock.release()

    def _opened(self, engine: Engine) -> None:
        self._engine = engine


Part = bytes | memoryview
Batches = Generator[pa.RecordBatch, None, None]
Encode = Callable[[Iterable[pa.RecordBatch], pa.Schema, Path], Iterator[Sequence[Part]]]
"""Yields the bytes of each batch, in parts of any size."""


def _pieces(
    batches: Batches, schema: Callable[[], pa.Schema], encode: Encode, folder: Path
) -> Generator[bytes, None, None]:
    """The bytes of encoded batches, at most 1 MiB at a time.

    Args:
        batches: The rows.
        schema: Finds out their schema if there are no rows.
        encode: Encodes them.
        folder: For temporary files.
    """
    with contextlib.closing(batches):
        first = next(batches, None)
        known_schema = schema() if first is None else first.schema
        rows = itertools.chain([] if first is None else [first], batches)
        for parts in encode(rows, known_schema, folder):
            yield from _cut(parts)


def _cut(parts: Iterable[Part]) -> Iterator[bytes]:
    """Bytes in pieces of at most 1 MiB, copied as seldom as can be."""
    piece, size = list[Part](), 0
    for part in parts:
        for start in range(0, len(part), MEBIBYTE):
            data = part[start : start + MEBIBYTE] if len(part) > MEBIBYTE else part
            if size + len(data) > MEBIBYTE:
                yield b"".join(piece)
                piece, size = [], 0
            piece.append(data)
            size += len(data)
    if piece:
        yield b"".join(piece)


def _arrow(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, _: Path
) -> Iterator[Sequence[Part]]:
    """An Arrow IPC stream."""
    # Not by a writer, whose sink would be Python's: each byte would be copied once more.
    yield (memoryview(schema.serialize()),)
    for batch in batches:
        yield (memoryview(batch.serialize()),)
    yield (END_OF_STREAM,)


def csv_parts(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, with_guard: bool = True
) -> Iterator[Sequence[Part]]:
    """CSV with a header: null is an empty cell, the empty text quoted, nested values are JSON."""
    nested = [field.name for field in schema if not _is_plain(field.type)]
    texts = pa.schema(
        [(field.name, pa.string() if field.name in nested else field.type) for field in schema]
    )
    columns = ", ".join(
        f"CAST(to_json({named(name)}) AS VARCHAR) AS {named(name)}" for name in nested
    )
    sink = _Sink()
    with Engine(folder) as engine, pacsv.CSVWriter(pa.PythonFile(sink, "w"), texts) as writer:
        for batch in batches:
            if nested:
                batch = _computed(engine, batch, f"SELECT * REPLACE ({columns}) FROM rows")
            if with_guard:
                batch = pa.record_batch(guarded(batch.columns), schema=batch.schema)
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


def _parquet(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, _: Path
) -> Iterator[Sequence[Part]]:
    """A Parquet file with a row group for each batch."""
    sink = _Sink()
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


def _json(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path
) -> Iterator[Sequence[Part]]:
    """One object a line. NaN and infinities, which JSON has not, are null."""
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    finite = ", ".join(
        f"CASE WHEN isfinite({named(name)}) THEN {named(name)} END AS {named(name)}"
        for name in floats
    )
    rows = f"(SELECT * REPLACE ({finite}) FROM rows)" if floats else "rows"
    # No column has this name: it is not printable.
    row = named("\x01")
    query = f"SELECT CAST(to_json({row}) AS VARCHAR) AS line FROM {rows} AS {row}"
    count = max(1, JSON_CELLS // len(schema))
    with Engine(folder) as engine:
        for batch in batches:
            for start in range(0, batch.num_rows, count):
                lines = _computed(engine, batch.slice(start, count), query).column(0)
                joined = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")
                yield joined[0].as_buffer().to_pybytes(), b"\n"


def _computed(engine: Engine, batch: pa.RecordBatch, query: str) -> pa.RecordBatch:
    """The rows of a query over a batch, which it calls `rows`."""
    engine.register("rows", pa.RecordBatchReader.from_batches(batch.schema, [batch]))
    results = list(engine.batches(query, batch.num_rows, field="encoding"))
    table = pa.Table.from_batches(results).combine_chunks()
    (result,) = table.to_batches()
    return result


def _is_plain(kind: pa.DataType) -> bool:
    """Whether CSV has values of a type as they are."""
    return (
        bool(
            pa.types.is_primitive(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
        )
        and not pa.types.is_duration(kind)
        and not pa.types.is_interval(kind)
    )


class _Sink:
    """A file that keeps what is written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        """Appends bytes."""
        self._parts.append(bytes(data))
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    def flush(self) -> None:
        """Does nothing."""

    def taken(self) -> list[bytes]:
        """What was written since the last time."""
        parts, self._parts = self._parts, []
        return parts


_ENCODINGS: Mapping[int, Encode] = {
    pb.ROW_ENCODING_UNSPECIFIED: _arrow,
    pb.ROW_ENCODING_ARROW: _arrow,
    pb.ROW_ENCODING_CSV: csv_parts,
    pb.ROW_ENCODING_JSON: _json,
    pb.ROW_ENCODING_PARQUET: _parquet,
}
