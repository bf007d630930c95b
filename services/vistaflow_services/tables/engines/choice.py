"""Which engine converts a piece.

    asked for   fast engine                      a piece that it declines
    auto        text if installed, else DuckDB   Python
    text        text                             Python
    duckdb      DuckDB                           Python
    python      none

The first piece of a sequence goes to Python, which learns the shape; so does every section of a
piece with something new in it. A fast engine that declines pieces with nothing new is given up:
the data do not suit it.
"""

from __future__ import annotations

import importlib.util
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.tables.conversion import EngineName
from vistaflow_services.tables.engines import DeclinedError, Engine, Rows
from vistaflow_services.tables.engines.python import PythonEngine
from vistaflow_services.tables.pieces import Piece
from vistaflow_services.tables.shape import Shape

FIRST_BYTES = 1 << 20
"""Size of the piece from which Python learns the shape."""

PATIENCE = 3
"""Pieces in a row that a fast engine may decline although nothing in them is new."""


def has_text_engine() -> bool:
    """Whether chDB is installed."""
    return importlib.util.find_spec("chdb") is not None


def fast_engine(name: EngineName) -> Callable[[], Engine] | None:
    """How to make the fast engine for what was asked for.

    Raises:
        InvalidError: The engine is not installed.
    """
    if name is EngineName.PYTHON:
        return None
    if name is EngineName.DUCKDB or (name is EngineName.AUTO and not has_text_engine()):
        from vistaflow_services.tables.engines.duckdb_engine import DuckDbEngine

        return DuckDbEngine
    if not has_text_engine():
        raise InvalidError(
            "engine: text needs chDB; install vistaflow[chdb] or choose auto",
            reason="NOT_INSTALLED",
        )
    from vistaflow_services.tables.engines.text import TextEngine

    return TextEngine


class Choice:
    """Converts pieces with the engine that suits them.

    Args:
        name: The engine that was asked for.
        workers: Pieces that a fast engine converts at once, each in a thread of its own; the
            engines do their work outside of the interpreter's lock.
    """

    def __init__(self, name: EngineName, workers: int = 1) -> None:
        make = fast_engine(name)
        self._engines = [make() for _ in range(workers)] if make else []
        self._free = SimpleQueue[Engine]()
        for engine in self._engines:
            self._free.put(engine)
        self._pool = ThreadPoolExecutor(workers) if make and workers > 1 else None
        self._workers = workers
        self._exact = PythonEngine()
        self._declined = 0
        self.records = Counter[str]()
        """Records that each engine converted since `begin`."""

    def begin(self) -> None:
        """Forgets what the data of an earlier conversion suited."""
        self._declined = 0
        self.records.clear()

    def convert_all(
        self, next_piece: Callable[[int], Piece | None], shape: Shape
    ) -> Iterator[tuple[Piece, Iterator[list[Rows]]]]:
        """Each piece with its rows, in order; what is new in them is added to the shape.

        The rows of a piece have to be taken before the next piece is.

        Args:
            next_piece: Answers the next piece, of about the bytes that it is given.
            shape: The shape of the records so far.
        """
        waiting = deque[tuple[Piece, Future[list[Rows]] | None]]()
        try:
            while True:
                while len(waiting) <= self._workers:
                    is_fast = self._is_fast(shape)
                    piece = next_piece(self._piece_bytes(is_fast))
                    if piece is None:
                        break
                    if not is_fast or self._pool is None:
                        waiting.append((piece, None))
                        break
                    waiting.append((piece, self._pool.submit(self._fast, piece, shape)))
                if not waiting:
                    return
                piece, future = waiting.popleft()
                yield piece, self._take(piece, future, shape, waiting)
        finally:
            _settle(waiting)

    def _take(
        self,
        piece: Piece,
        future: Future[list[Rows]] | None,
        shape: Shape,
        waiting: deque[tuple[Piece, Future[list[Rows]] | None]],
    ) -> Iterator[list[Rows]]:
        if future is not None:
            try:
                rows = future.result()
            except DeclinedError:
                # Python is about to change the shape that the threads read. What they convert
                # with the shape as it was stays right: columns are only ever appended.
                _settle(waiting)
            else:
                self._declined = 0
                self.records[self._engines[0].name] += len(piece.records)
                yield rows
                return
        yield from self.convert(piece, shape)

    def convert(self, piece: Piece, shape: Shape) -> Iterator[list[Rows]]:
        """The rows of a piece, in order, and what is new in it added to the shape."""
        if not self._is_fast(shape):
            yield self._exactly(piece, shape)
            return
        try:
            rows = self._fast(piece, shape)
        except DeclinedError:
            sections = list(_sections(piece))
            if len(sections) == 1:
                before = shape.state
                yield self._exactly(piece, shape)
                self._declined = self._declined + 1 if shape.state == before else 0
                return
        else:
            self._declined = 0
            self.records[self._engines[0].name] += len(piece.records)
            yield rows
            return
        # What is new is often in a few records only: the others are for the fast engine.
        for section in sections:
            yield from self.convert(section, shape)

    def close(self) -> None:
        """Ends the engines."""
        if self._pool is not None:
            self._pool.shutdown()
        for engine in self._engines:
            engine.close()

    def _fast(self, piece: Piece, shape: Shape) -> list[Rows]:
        engine = self._free.get()
        try:
            return engine.convert(piece, shape)
        finally:
            self._free.put(engine)

    def _exactly(self, piece: Piece, shape: Shape) -> list[Rows]:
        self.records[self._exact.name] += len(piece.records)
        return self._exact.convert(piece, shape)

    def _piece_bytes(self, is_fast: bool) -> int:
        if is_fast:
            return self._engines[0].piece_bytes
        size = self._exact.piece_bytes
        is_first = bool(self._engines) and self._declined < PATIENCE
        return min(FIRST_BYTES, size) if is_first else size

    def _is_fast(self, shape: Shape) -> bool:
        """Whether a fast engine should try: it needs a shape and data that suit it."""
        is_known = bool(shape.records.root.fields)
        return bool(self._engines) and is_known and self._declined < PATIENCE


def _settle(waiting: Iterable[tuple[Piece, Future[list[Rows]] | None]]) -> None:
    """Waits until no thread converts."""
    wait([future for _, future in waiting if future is not None])


def _sections(piece: Piece) -> Iterator[Piece]:
    """The piece in sections of about the size that suits the Python engine."""
    count = -(-len(piece.body) // PythonEngine.piece_bytes)
    size = -(-len(piece.records) // count)
    if size >= len(piece.records):
        yield piece
        return
    for first in range(0, len(piece.records), size):
        yield piece.section(first, first + size)
