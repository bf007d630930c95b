"""chDB as the parser, in a process of its own: every leaf is read as text, so nothing is lost.

chDB refuses fields that the schema does not have, duplicate keys and `NaN`; a number, boolean or
array becomes the text that it was. The piece and the answer are in memory files that both
processes share; no plaintext has a name on disk.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable

import pyarrow as pa

from vistaflow_services.tables.conversion import EngineName
from vistaflow_services.tables.engines import DeclinedError, Rows, text_child
from vistaflow_services.tables.engines.nested import check_shape, walk
from vistaflow_services.tables.memory import MemoryFiles
from vistaflow_services.tables.pieces import Piece
from vistaflow_services.tables.shape import Node, Shape

MEMORY_BYTES = 500 << 20
"""Most memory of one query of chDB; a piece that needs more is declined."""

PIECE_SECONDS = 300
"""Time after which a piece is declined and the process replaced."""

END_SECONDS = 5
"""Time for the process to end by itself."""

_SECRET = ("PASSWORD", "TOKEN", "SECRET", "DATABASE", "KEY")


class TextEngine:
    """Converts pieces whose fields the shape has."""

    name = EngineName.TEXT
    piece_bytes = 8 << 20

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None
        self._files = MemoryFiles()

    def convert(self, piece: Piece, shape: Shape) -> list[Rows]:
        """See `Engine.convert`."""
        check_shape(shape.records)
        piece.check_utf8()
        question = {"schema": structure(shape), "memory_bytes": MEMORY_BYTES}
        file = self._files.take(2 * piece.file.capacity)
        size = self._ask(question, (piece.file.descriptor, file.descriptor))
        # The arrays are views of the file: it is used again when all of them are gone.
        columns = file.content(size)
        self._files.give_back_after(columns, file)
        table = pa.ipc.open_stream(pa.py_buffer(columns)).read_all()
        del columns
        rows, _ = walk(table, shape, piece)
        return rows

    def close(self) -> None:
        """Ends the process."""
        self._end()
        self._connection = None

    def _ask(self, question: dict[str, object], files: tuple[int, int]) -> int:
        """Has the process put the columns of one file into another; answers their size."""
        connection = self._connection or self._start()
        try:
            text_child.send(connection, question, files)
            answer, _ = text_child.receive(connection)
        except (OSError, EOFError):  # it crashed or hangs: the next piece gets a new one
            self.close()
            raise DeclinedError("chDB ended") from None
        if "declined" in answer:
            raise DeclinedError(answer["declined"])
        return int(answer["size"])

    def _start(self) -> socket.socket:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not any(word in name.upper() for word in _SECRET)
        }
        # As a file, not as a module: the packages that it is in would be loaded first. The folder
        # of chDB is all that it needs of `site`.
        command = [sys.executable, "-I", "-S", text_child.__file__, _folder()]
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(PIECE_SECONDS)
        with theirs:
            process = subprocess.Popen(command, stdin=theirs.fileno(), env=environment)
        # Holds both: whatever collects this object, they are closed before.
        self._end = weakref.finalize(self, _end, self._connection, process)
        return self._connection


def _folder() -> str:
    """The folder of chDB."""
    spec = importlib.util.find_spec("chdb")
    if spec is None or not spec.submodule_search_locations:
        raise DeclinedError("chDB is not installed")
    return spec.submodule_search_locations[0]


def _end(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    try:
        process.wait(END_SECONDS)  # it removes its temporary folder
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def structure(shape: Shape) -> str:
    """The shape as a structure of ClickHouse, every leaf a nullable text.

    Raises:
        DeclinedError: A name is one that chDB would read in another way.
    """
    fields = shape.records.root.fields
    if not fields:
        raise DeclinedError("the records have no fields")
    return _members(shape.records.root)


def _members(node: Node) -> str:
    return ", ".join(f"{_name(key)} {_type(child)}" for key, child in (node.fields or {}).items())


def _name(key: str) -> str:
    if not key or any(character in key for character in ".`\\'") or not key.isprintable():
        raise DeclinedError("a field has a name that chDB reads in another way")
    return f"`{key}`"


def _type(node: Node) -> str:
    if node.items is not None:
        return f"Array({_element(node.items.root)})"
    if node.entries is not None:
        return f"Map(String, {_element(node.entries.root)})"
    if node.fields:
        return f"Tuple({_members(node)})"
    return "Nullable(String)"


def _element(node: Node) -> str:
    inner = _type(node)
    return f"Nullable({inner})" if inner.startswith("Tuple") else inner
