"""The process of one query: it confines itself, sets up DuckDB, runs the query and ends.

To open DuckDB takes longer than a small query. So the process that is forked may have opened it, by
`open_database`: empty, and without any thread, which a fork would not copy. What every query needs
is set up before the request comes, so that a process that is forked ahead starts at once.

On its socket it first receives a request, then `b"c"` to cancel; the end of the socket cancels as
well. It answers with lines of JSON:

    {"kind": "progress", "phase", "rows", "bytes", "percent"}
    {"kind": "done", "columns", "parts", "limited", "plan_seconds", "run_seconds", "engine"}  or
    {"kind": "failed", "reason", "message", "word"}

A cancelled query is interrupted; a second later the process ends whatever it is doing, because
some expressions of DuckDB cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import select
import signal
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa

from vistaflow_services.core.errors import ServiceError, cut
from vistaflow_services.core.work.process_groups import die_with_parent
from vistaflow_services.datasets.engine import listed, named, no_rows, quoted
from vistaflow_services.query.duckdb_functions import macros
from vistaflow_services.query.engines import parts
from vistaflow_services.query.engines.confinement import confine
from vistaflow_services.query.engines.contract import FileFormat, Limits, Query, SourceTable
from vistaflow_services.query.statement import Dialect

INTERRUPT_SECONDS = 1.0
"""How long an interrupted query may take to end by itself."""

ASYNC_THREADS = 8
"""Threads of DuckDB that read and write files ahead; its own default."""

REPORT_SECONDS = 0.2
BATCH_ROWS = 16_384
SLACK_BYTES = 768 << 20
"""Memory beyond that of DuckDB: Python, a row group, the code itself."""

_COMMON = """
SET enable_progress_bar = true;
SET enable_progress_bar_print = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET python_enable_replacements = false;
SET TimeZone = 'UTC';
"""
"""The settings of all queries. Progress is counted, and not printed."""

_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"

_EXPORTED = {
    "UHUGEINT": "DECIMAL(38,0)",
    "BIGNUM": "VARCHAR",
    "INTERVAL": "VARCHAR",
    "TIME WITH TIME ZONE": "VARCHAR",
    "BIT": "VARCHAR",
    "UUID": "VARCHAR",
    "JSON": "VARCHAR",
    "VARIANT": "VARCHAR",
    "GEOMETRY": "VARCHAR",
    '"NULL"': "INTEGER",
}
"""Types that a result has instead of those that Parquet does not have."""

# Read before the process loses its view of the files.
MACROS = macros()

_ENUM = re.compile(r"ENUM\((?:'(?:[^']|'')*'(?:, )?)+\)")
_TYPE = re.compile(r'"NULL"|"(?:[^"]|"")*"|TIME WITH TIME ZONE|[A-Z_]+')
_CARET = re.compile(r"LINE \d+: (.*)\n( *)\^")
_PATH = re.compile(r"(?<![\w/])(?:t\d+|\.{0,2})?/(?=[\w.])[^\s'\",;)]+")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the process is asked for."""

    query: Query
    limits: Limits
    folder: Path | None
    """Where the result goes; None to validate."""

    scratch: Path
    """An existing empty folder for what it spills."""


_opened: list[duckdb.DuckDBPyConnection] = []
"""The database that this process was forked with, if any."""


def open_database() -> None:
    """Opens an empty database that the processes forked from this one go on with."""
    if not _opened:
        _opened.append(_database())
        # What DuckDB and Arrow make at the first query only is copied by the fork.
        _try_out(_connection())


def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1, "async_threads": 0})


def _connection() -> duckdb.DuckDBPyConnection:
    """A connection with the settings that all queries have in common."""
    # One of its own has random numbers of its own.
    connection = (_opened[0] if _opened else _database()).cursor()
    connection.execute(_COMMON)
    return connection


def _try_out(connection: duckdb.DuckDBPyConnection) -> None:
    """Runs a query of constants."""
    relation = connection.sql("SELECT CAST(#1 AS BIGINT) AS one FROM (SELECT 1 + 1 AS one)")
    # Nothing is written: Arrow would reserve 1 GiB of memory, which counts on the query's limit.
    for _ in relation.to_arrow_reader(BATCH_ROWS):
        pass


def main(control: socket.socket, parent: int) -> None:
    """Serves one request and ends the process.

    Args:
        control: The socket.
        parent: The process that forked this one.
    """
    code = 1
    try:
        die_with_parent(parent)
        _close_others(control)
        connection = _connection()
        _try_out(connection)
        data = receive(control)
        if data is None:
            return  # forked ahead, and not needed
        request: Request = pickle.loads(data)
        _Work(control, request, connection).run(parent)
        code = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            control.sendall(_line(kind="failed", reason="CRASH", message=type(error).__name__))
    finally:
        os._exit(code)


def send(control: socket.socket, data: bytes) -> None:
    """Sends a block with its length before it."""
    control.sendall(struct.pack("!Q", len(data)) + data)


def receive(control: socket.socket) -> bytes | None:
    """Receives a block that `send` sent; None if the other side closed."""
    head = control.recv(8, socket.MSG_WAITALL)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("!Q", head)
    return control.recv(size, socket.MSG_WAITALL)


def _line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _close_others(control: socket.socket) -> None:
    """Closes what the fork inherited; nothing of it belongs to a query."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    keep = control.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 16)


class _Work:
    def __init__(
        self, control: socket.socket, request: Request, connection: duckdb.DuckDBPyConnection
    ) -> None:
        self._control = control
        self._query = request.query
        self._limits = request.limits
        self._request = request
        self._connection = connection
        self._phase = "planning"
        self._written = (0, 0)

    def run(self, parent: int) -> None:
        start = time.monotonic()
        try:
            self._confine(parent)
            self._set_up()
            threading.Thread(target=self._watch, daemon=True).start()
            answer = self._answer(self._connection, start)
        except ServiceError as error:
            answer = {"kind": "failed", "reason": error.reason, "message": error.message}
        except FileNotFoundError as error:
            answer = {"kind": "failed", "reason": "SOURCE_GONE", "message": self._owner(error)}
        except MemoryError:
            answer = {"kind": "failed", "reason": "QUERY_MEMORY", "message": ""}
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # While rows are read DuckDB's errors come through Arrow, as one of its own.
            answer = _failure(error, self._query)
        self._control.sendall(_line(**answer))

    def _confine(self, parent: int) -> None:
        limits, request = self._limits, self._request
        folder = request.folder or request.scratch
        files = [file.path for table in self._query.tables for file in table.files]
        confine(
            files,
            folder,
            parent=parent,
            seconds=int(limits.seconds * limits.threads) + 2,
            memory=limits.memory_bytes + SLACK_BYTES,
            file=max(limits.disk_bytes, limits.bytes) + parts.PART_BYTES,
        )
        os.chdir(request.scratch)

    def _owner(self, error: FileNotFoundError) -> str:
        for table in self._query.tables:
            if any(str(file.path) == str(error.filename) for file in table.files):
                return ".".join(table.relation)
        return ""

    def _set_up(self) -> None:
        links: list[str] = []
        views = [
            _view(table, _link(table, f"t{index}", links))
            for index, table in enumerate(self._query.tables)
        ]
        settings = {
            "memory_limit": quoted(f"{self._limits.memory_bytes}B"),
            "temp_directory": "'spill'",
            "max_temp_directory_size": quoted(f"{self._limits.disk_bytes}B"),
            "integer_division": "true" if self._query.dialect is Dialect.TRINO else "false",
            "allowed_paths": listed(links),
            "enable_external_access": "false",
        }
        if self._request.folder is not None:
            settings = {
                "threads": str(self._limits.threads),
                "async_threads": str(ASYNC_THREADS),
                **settings,
            }
        texts = [f"SET {name} = {value}" for name, value in settings.items()]
        lower = self._query.sql.lower()
        used = [text.rstrip().rstrip(";") for name, text in MACROS.items() if name in lower]
        texts += [*views, *used, "SET lock_configuration = true"]
        self._connection.execute(";\n".join(texts))

    def _answer(self, connection: duckdb.DuckDBPyConnection, start: float) -> dict[str, Any]:
        statements = connection.extract_statements(self._query.sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            return {"kind": "failed", "reason": "SQL", "message": "is not exactly one SELECT"}
        relation = connection.sql(self._query.sql)
        names, types = list(relation.columns), [str(kind) for kind in relation.types]
        distinct = parts.distinct_names(names)
        exported = [exported_type(kind, self._query.dialect) for kind in types]
        if (names, types) != (distinct, exported):
            # By position: names may repeat.
            values = [
                f"CAST(#{index} AS {kind}) AS {named(name)}"
                for index, (name, kind) in enumerate(zip(distinct, exported, strict=True), start=1)
            ]
            # On a line of its own, because the query's SQL may end with a comment.
            relation = connection.sql(f"SELECT {', '.join(values)} FROM ({self._query.sql}\n)")
        answer = {
            "kind": "done",
            "columns": list(zip(distinct, exported, strict=True)),
            "engine": f"duckdb {duckdb.__version__}",
            "plan_seconds": time.monotonic() - start,
        }
        if self._request.folder is None:
            return answer
        start = time.monotonic()
        self._phase = "running"
        reader = relation.to_arrow_reader(BATCH_ROWS)
        files, limited = parts.write(
            reader,
            reader.schema,
            self._request.folder,
            limits=self._limits,
            limit=self._query.limit,
            metadata=self._query.metadata,
            progress=self._count,
        )
        return {
            **answer,
            "parts": [(file.path.name, file.rows, file.bytes) for file in files],
            "limited": limited,
            "run_seconds": time.monotonic() - start,
        }

    def _count(self, rows: int, size: int) -> None:
        self._written = (rows, size)

    def _watch(self) -> None:
        """Reports until the other side cancels; runs beside the query."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while not poll.poll(REPORT_SECONDS * 1000):
            rows, size = self._written
            percent = self._connection.query_progress()
            with contextlib.suppress(OSError):
                self._control.send(
                    _line(
                        kind="progress",
                        phase=self._phase,
                        rows=rows,
                        bytes=size,
                        percent=percent if percent >= 0 else None,
                    )
                )
        self._connection.interrupt()
        time.sleep(INTERRUPT_SECONDS)
        os._exit(1)


def _keys(table: SourceTable) -> list[str]:
    """The partition keys in the names of links: DuckDB reads only plain ones from there."""
    return [f"_partition{index}" for index in range(len(table.partitions))]


def _link(table: SourceTable, folder: str, links: list[str]) -> list[str]:
    """Gives the files of a table names that say nothing of where they are.

    The names have the partition keys as DuckDB reads them. They are added to `links`.
    """
    names: list[str] = []
    for number, file in enumerate(table.files):
        values = [quote(value or _NO_PARTITION, safe="") for value in file.partition]
        keys = [f"{key}={value}" for key, value in zip(_keys(table), values, strict=True)]
        place = "/".join([folder, *keys])
        os.makedirs(place, exist_ok=True)
        # By its name DuckDB knows that a file is compressed.
        packed = ".gz" if file.path.suffix == ".gz" else ""
        names.append(f"{place}/{number}.{table.format}{packed}")
        os.symlink(file.path, names[-1])
    links += names
    return names


def _view(table: SourceTable, files: list[str]) -> str:
    """The statement that makes a table readable under its name."""
    columns = ", ".join(named(column.name) for column in table.columns)
    source = no_rows((*table.columns, *table.partitions))
    keys = [named(key.name) for key in table.partitions]
    if files:
        source = f"read_{table.format}({listed(files)}{_options(table)})"
        keys = [f"{name} AS {key}" for name, key in zip(_keys(table), keys, strict=True)]
        excluded = f" EXCLUDE ({', '.join(_keys(table))})" if keys else ""
        columns = columns or f"*{excluded}"
    selected = ", ".join(filter(None, [columns, *keys]))
    return f"CREATE VIEW {named('.'.join(table.relation))} AS SELECT {selected} FROM {source}"


def _options(table: SourceTable) -> str:
    options = ", hive_partitioning = false"
    if table.partitions:
        kinds = zip(_keys(table), table.partitions, strict=True)
        types = ", ".join(f"{name}: {key.type}" for name, key in kinds)
        options = f", hive_partitioning = true, hive_types = {{{types}}}"
    if table.format is FileFormat.PARQUET:
        return options
    types = ", ".join(f"{quoted(column.name)}: {quoted(column.type)}" for column in table.columns)
    options += f", columns = {{{types}}}"
    if table.format is FileFormat.CSV:
        return f"{options}, header = {str(table.header).lower()}, auto_detect = false"
    return options


def exported_type(kind: str, dialect: Dialect) -> str:
    """The type that a column of a result has: one that Parquet stores exactly."""
    if "UNION(" in kind:
        return "VARCHAR"
    # Trino sums whole numbers to BIGINT and fails beyond that.
    whole = "BIGINT" if dialect is Dialect.TRINO else "DECIMAL(38,0)"
    exported = {**_EXPORTED, "HUGEINT": whole}
    return _TYPE.sub(lambda match: exported.get(match[0], match[0]), _ENUM.sub("VARCHAR", kind))


def _failure(error: Exception, query: Query) -> dict[str, Any]:
    """DuckDB's error without its SQL and paths."""
    text = str(error)
    kind = text.partition(" Error: ")[0]
    if kind == "Out of Memory" or "std::bad_alloc" in text or "malloc of size" in text:
        reason = "QUERY_DISK" if "max_temp_directory_size" in text else "QUERY_MEMORY"
        return {"kind": "failed", "reason": reason, "message": ""}
    if "No space left" in text or "File too large" in text:
        return {"kind": "failed", "reason": "STORAGE", "message": ""}
    if kind == "INTERRUPT":
        return {"kind": "failed", "reason": "INTERRUPTED", "message": ""}
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    word = ""
    if caret := _CARET.search(text):
        # What the caret points to; the line begins with `LINE 1: `.
        rest = caret[1][max(0, len(caret[2]) - len("LINE 1: ")) :]
        word = (re.match(r'"((?:[^"]|"")*)"|\w+', rest) or [""])[0].strip('"')
    if kind in ("INTERNAL", "FATAL"):
        text = "the engine failed; please report the query"
    text = re.sub(r"^[A-Z][\w ]* Error: ", "", text.partition("\n\nLINE ")[0])
    text = text.partition(" Use TRY(")[0]
    text = _PATH.sub(lambda match: _relation(match[0], query), text)
    return {"kind": "failed", "reason": "SQL", "message": cut(text.strip(), 1_000), "word": word}


def _relation(path: str, query: Query) -> str:
    """The table that a path in a message belongs to."""
    if link := re.match(r"(?:.*/)?t(\d+)/", path):
        number = int(link[1])
        if number < len(query.tables):
            return f"a file of {'.'.join(query.tables[number].relation)}"
    for table in query.tables:
        if any(str(file.path) == path for file in table.files):
            return f"a file of {'.'.join(table.relation)}"
    return "a file"
