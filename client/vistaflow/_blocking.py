"""What the blocking client is made of: a thread that runs the asynchronous client.

`client.py` adds a method for each one of `AsyncClient`; `client/generate_blocking.py` writes it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from vistaflow._datasets import DatasetFigures, DatasetVersion
from vistaflow._rows import AsyncListing, Listing
from vistaflow._rpc import forks
from vistaflow.aio._calls import DEFAULT_TIMEOUT_SECONDS
from vistaflow.aio._data.datasets import AsyncDataset
from vistaflow.aio._data.query_result import CHUNK_ROWS, AsyncQueryResult
from vistaflow.aio._stream import StateStream
from vistaflow.aio._watch_many import ManyWatches
from vistaflow.aio.client import AsyncClient
from vistaflow.api.common.v1 import common_pb2
from vistaflow.errors import CanceledError, ForkedError
from vistaflow.models import Appended, WatchEvent

if TYPE_CHECKING:
    import pandas
    import pyarrow

T = TypeVar("T")


class Loop:
    """An event loop in a thread, to which any thread gives coroutines."""

    def __init__(self) -> None:
        forks.check()
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vistaflow-client", daemon=True
        )
        self._thread.start()

    @property
    def is_usable(self) -> bool:
        """Whether it takes coroutines, and in this process."""
        return not self._closed and not forks.in_fork()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; Ctrl-C cancels it.

        Raises:
            ForkedError: This process was forked from the one of the client.
            CanceledError: The client was closed.
        """
        try:
            forks.check()  # in a fork no thread runs the loop
            # What comes after `close` has looked for tasks would never end.
            with self._lock:
                if self._closed:
                    raise CanceledError("the client was closed", reason="CLOSED")
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except (ForkedError, CanceledError):
            coroutine.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise CanceledError("the client was closed", reason="CLOSED") from None
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """The result of a function that has to run in the loop."""

        async def call() -> T:
            return function()

        return self.run(call())

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """The items of an asynchronous iterator, which is closed with this one."""

        async def following() -> T:
            return await anext(source)

        try:
            while True:
                try:
                    yield self.run(following())
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(source, "aclose", None)
            if close is not None and self.is_usable:
                self.run(close())

    def listing(self, source: AsyncListing[T]) -> Listing[T]:
        """A listing of the asynchronous client as one that blocks."""
        return Listing(self.iterate(source))

    def close(self) -> None:
        """Cancels what still runs, and stops the thread."""

        async def cancel_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        with self._lock:
            if self._closed:
                return
            self._closed = True
            canceling = asyncio.run_coroutine_threadsafe(cancel_all(), self._loop)
        canceling.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Sent:
    """Rows on their way; `result` waits for their verdicts."""

    def __init__(self, answer: asyncio.Future[Appended], loop: Loop) -> None:
        self._answer = answer
        self._loop = loop

    def result(self) -> Appended:
        """The verdicts, once the rows are durable."""

        async def answered() -> Appended:
            return await asyncio.shield(self._answer)

        return self._loop.run(answered())


class Stream:
    """Many rows appended over one stream; made by `Client.stream`, for one thread."""

    def __init__(self, stream: StateStream, loop: Loop) -> None:
        self._stream = stream
        self._loop = loop

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.run(self._stream.__aexit__(exc_type, exc, traceback))

    def send(self, states: Sequence[common_pb2.State]) -> Sent:
        """Sends rows as one append, once there is room for them; see `StateStream.send`."""
        return Sent(self._loop.run(self._stream.send(states)), self._loop)

    def flush(self) -> int:
        """Waits until all sent rows are durable; raises as `StateStream.flush` does."""
        return self._loop.run(self._stream.flush())


class Watches:
    """Several watches on one stream; made by `Client.watch_many`."""

    def __init__(self, many: ManyWatches, loop: Loop) -> None:
        self._many = many
        self._loop = loop

    def open(self, name: str, **options: Any) -> None:
        """Begins a watch under a name; the options are the arguments of `watch`."""
        self._loop.call(lambda: self._many.open(name, **options))

    def close(self, name: str) -> None:
        """Ends a watch; events that were sent before may still follow."""
        self._loop.call(lambda: self._many.close(name))

    def revision(self, name: str) -> int:
        """Everything of a watch up to this was delivered: resume from it."""
        return self._many.revision(name)

    def __iter__(self) -> Iterator[tuple[str, WatchEvent]]:
        """The names of watches, and what happened in them, without end."""
        return self._loop.iterate(aiter(self._many))


class QueryResult:
    """A finished query and its rows, which are fetched as they are needed.

    Made by `Client.query` and `Client.query_result`; see `AsyncQueryResult` for the arguments.
    """

    def __init__(self, result: AsyncQueryResult, loop: Loop) -> None:
        self._result = result
        self._loop = loop
        self.query = result.query
        self.query_id = result.query_id
        self.reused = result.reused

    def __len__(self) -> int:
        return len(self._result)

    def __repr__(self) -> str:
        return repr(self._result)

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        return self.chunks()

    def chunks(self, rows: int = CHUNK_ROWS, **bounds: int) -> Iterator[pyarrow.RecordBatch]:
        """The rows as record batches, each fetched when it is needed."""
        return self._loop.iterate(self._result.chunks(rows, **bounds))

    def read(self, format: str, **bounds: int) -> bytes:
        """Rows in a format: `arrow`, `csv`, `json`, `json-arrays` or `parquet`."""
        return self._loop.run(self._result.read(format, **bounds))

    def save(self, path: str | os.PathLike[str], format: str = "") -> Path:
        """Writes all rows to a file, which appears once it is complete."""
        return self._loop.run(self._result.save(path, format))

    def to_arrow(self) -> pyarrow.Table:
        """All rows as a table of Arrow, with exact types."""
        return self._loop.run(self._result.to_arrow())

    def to_pandas(self) -> pandas.DataFrame:
        """All rows as a data frame."""
        return self._loop.run(self._result.to_pandas())

    def to_numpy(self) -> dict[str, Any]:
        """All rows as an array for each column, by its name."""
        return self._loop.run(self._result.to_numpy())

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows as tuples of Python's values."""
        return self._loop.run(self._result.fetchall())

    def to_sqlite(self, path: str | os.PathLike[str], table: str) -> int:
        """Writes all rows to a table of an SQLite database; see `AsyncQueryResult.to_sqlite`."""
        return self._loop.run(self._result.to_sqlite(path, table))


class Dataset(DatasetFigures):
    """A version of a dataset, seen as one of its tables; made by `Client.dataset`.

    Its methods take `columns`, `filter`, `offset` and `limit` as `Client.read_dataset` does. It can
    be iterated over: its items are the record batches of the table.
    """

    def __init__(self, dataset: AsyncDataset, loop: Loop) -> None:
        super().__init__(dataset.pb, dataset.table_name, rejects=dataset.is_rejects)
        self._dataset = dataset
        self._loop = loop

    def table(self, name: str) -> Dataset:
        """The same version, seen as another of its tables."""
        return Dataset(self._dataset.table(name), self._loop)

    @property
    def rejects(self) -> Dataset:
        """The rejected rows of the table, with the columns `_rule`, `_row` and `_value`."""
        return Dataset(self._dataset.rejects, self._loop)

    def versions(self) -> Listing[DatasetVersion]:
        """The versions of the dataset, newest first."""
        return self._loop.listing(self._dataset.versions())

    def batches(self, **selection: Any) -> Iterator[pyarrow.RecordBatch]:
        """The rows of the table as record batches of Arrow; needs pyarrow."""
        return self._loop.iterate(self._dataset.batches(**selection))

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        return self.batches()

    def to_arrow(self, **selection: Any) -> pyarrow.Table:
        """The rows as a table of Arrow, which has to fit into memory; needs pyarrow."""
        return self._loop.run(self._dataset.to_arrow(**selection))

    def to_pandas(self, **selection: Any) -> pandas.DataFrame:
        """The rows as a data frame, which has to fit into memory; needs pandas and pyarrow."""
        return self._loop.run(self._dataset.to_pandas(**selection))

    def download(self, path: str | os.PathLike[str], format: str = "", **selection: Any) -> Path:
        """Writes the rows to a file of this machine; see `AsyncDataset.download`."""
        return self._loop.run(self._dataset.download(path, format, **selection))


class BlockingClient:
    """The life of a blocking client: its thread, its asynchronous client, its end."""

    def __init__(
        self, address: str = "", *, timeout: float = DEFAULT_TIMEOUT_SECONDS, token: str = ""
    ) -> None:
        self._loop = Loop()
        try:
            self._client = self._loop.call(
                lambda: AsyncClient(address, timeout=timeout, token=token)
            )
        except BaseException:
            self._loop.close()
            raise
        self.address = self._client.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        if self._loop.is_usable:
            self._loop.run(self._client.close())
            self._loop.close()
