"""The process of the text engine: one query of chDB for each message on a socket.

A message is a JSON document that begins with its length. A question comes with two memory files,
one of records and one for their columns.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SETTINGS = (
    "input_format_skip_unknown_fields = 0",
    "input_format_json_ignore_unknown_keys_in_named_tuple = 0",
    "input_format_json_read_numbers_as_strings = 1",
    "input_format_json_read_bools_as_strings = 1",
    "input_format_json_read_arrays_as_strings = 1",
    "input_format_json_read_objects_as_strings = 1",
    "input_format_null_as_default = 1",
    "input_format_parallel_parsing = 0",
    "max_threads = 1",
    "output_format_arrow_string_as_string = 1",
    "output_format_arrow_compression_method = 'none'",
    "max_block_size = 1000000000",
)
_LENGTH_BYTES = 8


def send(connection: socket.socket, document: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Sends a document, with files."""
    text = json.dumps(document).encode()
    socket.send_fds(connection, [len(text).to_bytes(_LENGTH_BYTES, "big")], files)
    connection.sendall(text)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A document and the files that came with it.

    Raises:
        EOFError: The other process ended.
    """
    length, files, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 2, socket.MSG_WAITALL)
    text = bytearray()
    size = int.from_bytes(length, "big") if len(length) == _LENGTH_BYTES else 0
    while len(text) < size and (chunk := connection.recv(size - len(text))):
        text += chunk
    if not size or len(text) < size:
        raise EOFError
    return json.loads(text), files


def load(folder: str) -> Any:
    """The engine of chDB.

    Its package loads NumPy and starts an engine only to ask for its version, which is most of the
    time of a start. So its extension is loaded alone, if it is where it is expected.

    Args:
        folder: The folder of the package.
    """
    path = Path(folder, "_chdb.abi3.so")
    if not path.exists():
        sys.path.append(str(path.parent.parent))
        return importlib.import_module("chdb")
    loader = importlib.machinery.ExtensionFileLoader("_chdb", str(path))
    spec = importlib.util.spec_from_loader("_chdb", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def main() -> None:
    """Answers each question with the size of the columns."""
    connection = socket.socket(fileno=os.dup(0))
    os.dup2(2, 1)
    engine = load(sys.argv[1])
    # Without a session that stays, each query would start and end an engine.
    session = engine.connect()

    while True:
        try:
            question, (source, target) = receive(connection)
        except EOFError:
            return
        settings = ", ".join((*SETTINGS, f"max_memory_usage = {int(question['memory_bytes'])}"))
        query = (
            f"SELECT * FROM file('/proc/self/fd/{source}', 'JSONEachRow', '{question['schema']}') "
            f"SETTINGS {settings}"
        )
        try:
            columns = session.query(query, "ArrowStream").get_memview()
        except Exception as error:
            send(connection, {"declined": str(error)[:500]})
            # What a failed query had written would be at the head of the next answer.
            session.close()
            session = engine.connect()
        else:
            os.lseek(target, 0, os.SEEK_SET)
            with open(target, "wb", closefd=False) as file:
                file.write(columns.view())
            send(connection, {"size": columns.size()})
            columns.release()
        os.close(source)
        os.close(target)


if __name__ == "__main__":
    main()
