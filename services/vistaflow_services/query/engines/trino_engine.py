"""A Trino server through its official client.

Datasets reach Trino as tables of hive; see `hive`.

    state of Trino                                    phase of our progress
    QUEUED, WAITING_FOR_RESOURCES                     queued
    DISPATCHING, PLANNING, STARTING                   planning
    RUNNING, FINISHING, FINISHED                      running: not all rows are stored
    FAILED                                            an error, or what we cancelled ourselves
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import requests
from trino import dbapi, exceptions
from trino.auth import BasicAuthentication

from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    NotFoundError,
    ServiceError,
    TooSlowError,
    UnavailableError,
)
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.engines import parts, trino_values
from vistaflow_services.query.engines.contract import (
    DEFAULTS,
    Limits,
    Progress,
    Query,
    QueryCanceled,
    Result,
    never,
    silent,
)
from vistaflow_services.query.engines.hive import Warehouse, publish
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import Dialect

AHEAD_ROWS = 8_192
RETRY_SECONDS = 2.0
"""Between tries while the server has no workers, as in its first seconds."""

RETRIES = 5
STOP_SECONDS = 1.5
"""How long a cancelled query may take to end; then its thread is left to itself."""

REQUEST_SECONDS = 30.0

_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 0.2
_PLANNING = ("DISPATCHING", "PLANNING", "STARTING")
_WHERE = re.compile(r"^line \d+:\d+: ")
_LOCATION = re.compile(r"(?:\w+:)?//?[\w.\-=%]+(?:/[\w.\-=%]*)+")
_NO_NODES = ("NO_NODES_AVAILABLE", "SERVER_STARTING_UP")


class TrinoEngine:
    """See `Engine`. Its methods may be called from any thread."""

    dialect = Dialect.TRINO

    def __init__(self, url: str, *, user: str, warehouse: Warehouse | None = None) -> None:
        """An engine; nothing is connected yet.

        Args:
            url: Such as `http://trino:8080/hive/sales`: catalog and schema of bare names are
                optional. `https://user:password@…` signs in.
            user: Whom queries run as.
            warehouse: Without one only stored tables can be read.
        """
        self._url = urlsplit(url)
        self._user = user
        self._warehouse = warehouse
        self._publishing = threading.Lock()

    def relation(self, name: str) -> tuple[str, ...]:
        """What `SourceTable.relation` of a table of files must be.

        Args:
            name: Unique to the files, such as the hash of the version: the table stays for the
                next query.

        Raises:
            ConflictError: There is no warehouse.
        """
        if self._warehouse is None:
            raise ConflictError(
                "Trino reads no datasets here, because it has no warehouse; use DuckDB",
                reason="NO_WAREHOUSE",
            )
        return (self._warehouse.catalog, self._warehouse.schema, f"t_{name.lower()}")

    def validate(self, query: Query, limits: Limits = DEFAULTS) -> tuple[Column, ...]:
        """See `Engine.validate`."""
        with _errors(), contextlib.closing(self._connect(limits)) as connection:
            self._publish(connection, query)
            cursor = connection.cursor()
            # Planned as a whole, and reduced to nothing by the plan. A prepared statement would
            # travel in a header, whose length is limited.
            cursor.execute(f"SELECT * FROM ({query.sql}\n) LIMIT 0")
            cursor.fetchall()
            described = [(entry[0], entry[1]) for entry in cursor.description or ()]
        return _columns(described)[0]

    def run(
        self,
        query: Query,
        folder: Path,
        *,
        limits: Limits = DEFAULTS,
        should_stop: Callable[[], bool] = never,
        progress: Callable[[Progress], None] = silent,
    ) -> Result:
        """See `Engine.run`."""
        deadline = time.monotonic() + limits.seconds

        def check() -> None:
            if should_stop():
                raise QueryCanceled
            if time.monotonic() >= deadline:
                raise _late(limits)

        try:
            for left in reversed(range(RETRIES)):
                try:
                    with _errors():
                        return self._run(query, folder, limits, check, progress)
                except _NoNodesError:
                    if not left:
                        raise
                retry_at = time.monotonic() + RETRY_SECONDS
                while time.monotonic() < retry_at:
                    check()
                    time.sleep(_POLL_SECONDS)
        except BaseException:
            for path in folder.iterdir():
                path.unlink()
            raise
        raise AssertionError("the last try returns or raises")

    def _run(
        self,
        query: Query,
        folder: Path,
        limits: Limits,
        check: Callable[[], None],
        progress: Callable[[Progress], None],
    ) -> Result:
        start = time.monotonic()
        with contextlib.closing(self._connect(limits)) as connection:
            self._publish(connection, query)
            with _Rows(connection, query.sql, check, progress) as rows:
                columns, fields = _columns(rows.columns())
                planned = time.monotonic()
                arrow = zip(columns, fields, strict=True)
                schema = pa.schema([(column.name, field.arrow) for column, field in arrow])
                files, limited = parts.write(
                    (trino_values.batch(page, fields, schema) for page in rows.pages()),
                    schema,
                    folder,
                    limits=limits,
                    limit=query.limit,
                    metadata=query.metadata,
                    progress=rows.count,
                )
        return Result(
            columns=columns,
            parts=files,
            limited=limited,
            plan_seconds=planned - start,
            run_seconds=time.monotonic() - planned,
            engine="trino",
        )

    def _connect(self, limits: Limits) -> dbapi.Connection:
        url = self._url
        catalog, schema, *_ = [*filter(None, url.path.split("/")), None, None]
        secure = url.scheme == "https"
        sign_in = None
        if url.username and url.password:
            sign_in = BasicAuthentication(unquote(url.username), unquote(url.password))
        return dbapi.Connection(
            host=url.hostname or "localhost",
            port=url.port or (443 if secure else 8080),
            user=self._user,
            source="vistaflow",
            catalog=catalog,
            schema=schema,
            http_scheme=url.scheme,
            auth=sign_in,
            timezone="UTC",
            request_timeout=REQUEST_SECONDS,
            session_properties={"query_max_run_time": f"{max(1, round(limits.seconds))}s"},
        )

    def _publish(self, connection: dbapi.Connection, query: Query) -> None:
        """Makes the query's files tables of Trino, if they are not yet."""

        def ask(sql: str) -> list[Any]:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

        for table in query.tables:
            if not table.stored and self._warehouse is not None:
                with self._publishing:
                    publish(ask, self._warehouse, table)


def _columns(
    described: Sequence[tuple[str, str]],
) -> tuple[tuple[Column, ...], list[trino_values.Field]]:
    """Names and types of Trino as columns, and what converts their values."""
    names = parts.distinct_names([name for name, _ in described])
    fields = [trino_values.Field(kind) for _, kind in described]
    pairs = zip(names, fields, strict=True)
    return tuple(Column(name=name, type=field.duckdb) for name, field in pairs), fields


class _NoNodesError(UnavailableError):
    """The server has no workers now."""


class _Rows:
    """The rows of a running query, fetched by a thread, because the client blocks.

    The thread is at most one page of the server and `AHEAD_ROWS` ahead.
    """

    def __init__(
        self,
        connection: dbapi.Connection,
        sql: str,
        check: Callable[[], None],
        progress: Callable[[Progress], None],
    ) -> None:
        self._cursor = connection.cursor()
        self._sql = sql
        self._check = check
        self._progress = progress
        self._progress_at = 0.0
        self._written = (0, 0)
        self._change = threading.Condition()
        self._columns: list[tuple[str, str]] = []
        self._rows: list[Any] = []
        self._error: Exception | None = None
        self._complete = self._over = False
        self._thread = threading.Thread(target=self._fetch, daemon=True)

    def __enter__(self) -> _Rows:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Cancels the query if it has not ended."""
        with self._change:
            self._over = True
            self._change.notify_all()
        give_up = time.monotonic() + STOP_SECONDS
        self._thread.join(0 if self._complete else _POLL_SECONDS)
        while self._thread.is_alive() and time.monotonic() < give_up:
            with contextlib.suppress(Exception):
                self._cursor.cancel()
            self._thread.join(_POLL_SECONDS)

    def columns(self) -> list[tuple[str, str]]:
        """Names and types; waits until they are known."""
        self._wait(lambda: bool(self._columns))
        return self._columns

    def pages(self) -> Iterator[list[Any]]:
        """The rows, some at once, as they come."""
        while True:
            self._wait(lambda: bool(self._rows))
            with self._change:
                page, self._rows = self._rows, []
                self._change.notify_all()
            if not page:
                return
            yield page

    def count(self, rows: int, size: int) -> None:
        """Takes what is written, for the progress."""
        self._written = (rows, size)

    def _wait(self, is_there: Callable[[], bool]) -> None:
        """Waits for something, or for the end of the query; raises what it failed of."""
        with self._change:
            while not (is_there() or self._complete):
                self._check()
                self._report()
                self._change.wait(_POLL_SECONDS)
            if not is_there() and self._error is not None:
                raise self._error
        self._check()

    def _report(self) -> None:
        now = time.monotonic()
        if now < self._progress_at:
            return
        self._progress_at = now + _PROGRESS_SECONDS
        stats = self._cursor.stats or {}
        state = stats.get("state", "QUEUED")
        phase = "planning" if state in _PLANNING else "running"
        if state in ("QUEUED", "WAITING_FOR_RESOURCES"):
            phase = "queued"
        rows, size = self._written
        percent = stats.get("progressPercentage")
        self._progress(Progress(phase=phase, rows=rows, bytes=size, percent=percent))

    def _fetch(self) -> None:
        try:
            self._cursor.execute(self._sql)
            with self._change:
                self._columns = [(entry[0], entry[1]) for entry in self._cursor.description or ()]
                self._change.notify_all()
            while not self._over and (row := self._cursor.fetchone()) is not None:
                with self._change:
                    self._rows.append(row)
                    if len(self._rows) == AHEAD_ROWS:
                        self._change.notify_all()
                        self._change.wait_for(lambda: self._over or len(self._rows) < AHEAD_ROWS)
        except Exception as error:
            self._error = error
        with self._change:
            self._complete = True
            self._change.notify_all()


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """The client's errors as those of a service."""
    try:
        yield
    except exceptions.TrinoQueryError as error:
        raise _failure(error) from None
    except (exceptions.Error, exceptions.HttpError, requests.RequestException, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            raise
        raise UnavailableError(
            "Trino does not answer or lost the query; run it again", reason="ENGINE"
        ) from None


def _failure(error: exceptions.TrinoQueryError) -> ServiceError:
    name, kind = error.error_name or "", error.error_type or ""
    message = _LOCATION.sub("a file", _WHERE.sub("", error.message.partition("\n")[0]))
    if name in _NO_NODES or "nodes is empty" in message:
        return _NoNodesError("Trino has no workers now; try again", reason="ENGINE")
    if name in ("EXCEEDED_TIME_LIMIT", "EXCEEDED_CPU_LIMIT"):
        return TooSlowError(
            "the query took longer than it may; filter more rows", reason="QUERY_TIME"
        )
    if name in ("HIVE_FILE_NOT_FOUND", "HIVE_CANNOT_OPEN_SPLIT"):
        return NotFoundError("a file of a table is gone; run the query again", reason="SOURCE_GONE")
    if name in ("USER_CANCELED", "ADMINISTRATIVELY_KILLED", "ADMINISTRATIVELY_PREEMPTED"):
        return UnavailableError("the query was ended at Trino; run it again", reason="ENGINE")
    if kind == "INSUFFICIENT_RESOURCES":
        return ExhaustedError(
            "the query needs more than Trino gives one query; filter more rows",
            reason="QUERY_MEMORY",
        )
    if kind == "USER_ERROR":
        return QueryError(message)
    return UnavailableError(f"Trino failed ({name or kind}); run it again", reason="ENGINE")


def _late(limits: Limits) -> TooSlowError:
    return TooSlowError(
        f"the query took longer than {limits.seconds:g} s; "
        "filter more rows or ask for a longer time",
        reason="QUERY_TIME",
    )
