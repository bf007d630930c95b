"""Record batches of Arrow that arrive as the bytes of an IPC stream."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vistaflow.errors import CanceledError, MissingPackageError

if TYPE_CHECKING:
    import pyarrow


def check_arrow() -> Any:
    """The package pyarrow, which is imported only when it is used.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingPackageError(
            "record batches need pyarrow: pip install 'vistaflow[arrow]'", reason="PYARROW_MISSING"
        ) from None
    return pyarrow


@contextlib.asynccontextmanager
async def batch_reader(
    blocks: AsyncGenerator[bytes, None],
) -> AsyncIterator[pyarrow.RecordBatchReader]:
    """A reader of the record batches of an IPC stream, for threads, while the block runs.

    Memory is that of one batch and one block.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    arrow = check_arrow()
    file = _BlockFile(blocks)
    try:
        yield await asyncio.to_thread(arrow.ipc.open_stream, io.BufferedReader(file, 1 << 20))
    finally:
        await file.end()


def write_batches(reader: pyarrow.RecordBatchReader, format: str, file: Path | BinaryIO) -> None:
    """Writes record batches to a file: "parquet", or "arrow" for an IPC file."""
    arrow = check_arrow()
    writer = (
        arrow.parquet.ParquetWriter(file, reader.schema, compression="zstd")
        if format == "parquet"
        else arrow.ipc.new_file(str(file), reader.schema)
    )
    with writer:
        for batch in reader:
            writer.write_batch(batch)


class _BlockFile(io.RawIOBase):
    """Blocks as a file: a thread that reads it waits for the event loop, which gets the block.

    Args:
        blocks: An asynchronous generator of the present loop.
    """

    def __init__(self, blocks: AsyncGenerator[bytes, None]) -> None:
        self._blocks = blocks
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")
        self._pulling = asyncio.Lock()
        self._pull_task: asyncio.Task[Any] | None = None
        self._is_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(
                asyncio.run_coroutine_threadsafe(self._pull(), self._loop).result()
            )
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    async def _pull(self) -> bytes:
        self._pull_task = asyncio.current_task()
        async with self._pulling:
            if self._is_ended:
                raise CanceledError("the rows are no longer read")
            return await anext(self._blocks, b"")

    async def end(self) -> None:
        """Ends the stream; a thread that still waits for a block gets an error."""
        self._is_ended = True
        if self._pull_task is not None:
            self._pull_task.cancel()
        async with self._pulling:
            await self._blocks.aclose()
