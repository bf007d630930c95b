"""DuckDB in one confined process a query.

an attempt of a job     DuckDbEngine()          forks itself: it has the imports done and no
                                                thread; it may have DuckDB open as
                                                `child.open_database` opens it
a service with threads  DuckDbEngine(server)    asks a `ForkingServer` for the process
"""

from __future__ import annotations

import contextlib
import json
import pickle
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vistaflow_services.core.errors import (
    ExhaustedError,
    NotFoundError,
    ServiceError,
    TooSlowError,
    UnavailableError,
)
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.engines import forking
from vistaflow_services.query.engines.child import INTERRUPT_SECONDS, Request, send
from vistaflow_services.query.engines.contract import (
    DEFAULTS,
    Limits,
    Progress,
    Query,
    QueryCanceled,
    Result,
    ResultPart,
    never,
    silent,
)
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import Dialect

KILL_SECONDS = INTERRUPT_SECONDS + 0.5
"""After which a process that was asked to stop is killed."""

_POLL_SECONDS = 0.1
_MAX_ANSWER_BYTES = 16 << 20


class DuckDbEngine:
    """See `Engine`. Its methods may be called from any thread if it has a server."""

    dialect = Dialect.DUCKDB

    def __init__(self, server: forking.ForkingServer | None = None) -> None:
        """An engine.

        Args:
            server: Starts the processes; without one this process is forked.
        """
        self._server = server

    def validate(self, query: Query, limits: Limits = DEFAULTS) -> tuple[Column, ...]:
        """See `Engine.validate`. Files are opened only for tables without `columns`."""
        answer = self._ask(query, limits, None, never, silent)
        return tuple(Column(name=name, type=kind) for name, kind in answer["columns"])

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
        try:
            answer = self._ask(query, limits, folder, should_stop, progress)
        except BaseException:
            for path in folder.iterdir():
                path.unlink()
            raise
        return Result(
            columns=tuple(Column(name=name, type=kind) for name, kind in answer["columns"]),
            parts=tuple(
                ResultPart(path=folder / Path(name).name, rows=rows, bytes=size)
                for name, rows, size in answer["parts"]
            ),
            limited=answer["limited"],
            plan_seconds=answer["plan_seconds"],
            run_seconds=answer["run_seconds"],
            engine=answer["engine"],
        )

    def _ask(
        self,
        query: Query,
        limits: Limits,
        folder: Path | None,
        should_stop: Callable[[], bool],
        progress: Callable[[Progress], None],
    ) -> dict[str, Any]:
        """The last message of a process that serves the query; raises what it failed of."""
        scratch = Path(tempfile.mkdtemp(prefix=".work-", dir=folder))
        request = Request(query=query, limits=limits, folder=folder, scratch=scratch)
        try:
            process = self._server.fork() if self._server else forking.fork()
            code: int | None = None
            try:
                with contextlib.suppress(BrokenPipeError):
                    send(process.control, pickle.dumps(request))
                answer, stopped = _listen(process, limits, should_stop, progress)
            finally:
                code = process.close()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if answer.get("kind") == "done":
            return answer
        if stopped == "canceled" or code == -signal.SIGTERM:
            # Who ends this process sends the signal to those below it as well.
            raise QueryCanceled
        if stopped or code == -signal.SIGXCPU:
            raise TooSlowError(
                f"the query took longer than {limits.seconds:g} s; "
                "filter more rows or ask for a longer time",
                reason="QUERY_TIME",
            )
        if not answer and code is not None and code < 0 and code != -signal.SIGKILL:
            name = signal.Signals(-code).name
            raise QueryError(f"the engine crashed ({name}); write the query in another way")
        raise _error(answer, limits)


def _listen(
    process: forking.QueryProcess,
    limits: Limits,
    should_stop: Callable[[], bool],
    progress: Callable[[Progress], None],
) -> tuple[dict[str, Any], str]:
    """Follows a process to its last message or its end.

    Returns:
        The last message, or {}; and why it was stopped: "canceled", "late" or "".
    """
    poll = select.poll()
    poll.register(process.control, select.POLLIN)
    deadline = time.monotonic() + limits.seconds
    received, stopped, kill_at = b"", "", 0.0
    while True:
        if poll.poll(_POLL_SECONDS * 1000):
            try:
                data = process.control.recv(1 << 16)
            except ConnectionError:
                data = b""
            received += data
            *lines, received = received.split(b"\n")
            for message in map(json.loads, lines):
                if message["kind"] != "progress":
                    return message, stopped
                if not stopped:
                    del message["kind"]
                    progress(Progress(**message))
            if not data or len(received) > _MAX_ANSWER_BYTES:
                return {}, stopped or ("canceled" if should_stop() else "")
        now = time.monotonic()
        if not stopped and (should_stop() or now >= deadline):
            stopped = "late" if now >= deadline else "canceled"
            kill_at = now + KILL_SECONDS
            with contextlib.suppress(OSError):
                process.control.send(b"c")
        elif stopped and now >= kill_at:
            process.kill()


def _error(answer: dict[str, Any], limits: Limits) -> ServiceError:
    """What a process failed of, as an error of a service."""
    message = answer.get("message", "")
    match answer.get("reason", ""):
        case "SQL":
            return QueryError(message, word=answer.get("word", ""))
        case "SOURCE_GONE":
            problem = f"a file of {message} is gone; run the query again" if message else "is gone"
            return NotFoundError(problem, reason="SOURCE_GONE")
        case "QUERY_DISK":
            size = f"{limits.disk_bytes / 2**20:,.0f} MiB"
            return ExhaustedError(
                f"the query needs more than {size} of disk to sort or join; filter more rows",
                reason="QUERY_DISK",
            )
        case "STORAGE":
            return ExhaustedError(
                message or "the disk of the query engine is full; free it, or filter more rows",
                reason="STORAGE",
            )
        case "RESULT_ROWS" | "RESULT_BYTES" as reason:
            return ExhaustedError(message, reason=reason)
        case "CRASH":
            return UnavailableError(f"the query engine failed ({message})", reason="ENGINE")
    # Also a process that ended without a word: the kernel ends those without memory.
    size = f"{limits.memory_bytes / 2**20:,.0f} MiB"
    return ExhaustedError(
        f"the query needs more than {size} of memory; filter more rows or select fewer columns",
        reason="QUERY_MEMORY",
    )
