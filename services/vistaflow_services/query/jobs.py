"""The job of this service: a query, from its recorded tables to a stored result.

The result is part files and `parts.json`, which is written last and lists them, in the attempt's
own folder, so a late attempt cannot touch what a newer one wrote; the parts are in the stores if
the operator declares some. A file of the query's name in `queries/` of the artifact store tells the
service's retention that there is a result.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow_services.core import config as configuration
from vistaflow_services.core import files
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.datasets.manifest import to_json
from vistaflow_services.query.config import Config
from vistaflow_services.query.engines.child import open_database
from vistaflow_services.query.engines.contract import Limits, Progress, Query, QueryCanceled
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.engines.forking import fork_ahead
from vistaflow_services.query.results.storage import Storage
from vistaflow_services.query.submission import (
    DIALECTS,
    SECRET_BYTES,
    check_signature,
    completed_record,
    engine_for,
    relations,
    secret_path,
    source_records,
)
from vistaflow_services.query.tables.catalog import from_json_bytes
from vistaflow_services.query.tables.inputs import Places, local_tables

PREPARE: Final = open_database
"""What the process does first that attempts are forked from."""

STAND_BY: Final = fork_ahead
"""What an attempt does before it has its job."""


def run(attempt: Attempt) -> dict[str, Any]:
    """Runs the query of a `QuerySpec`; the result says where its rows are and how many."""
    spec = attempt.unpack(pb.QuerySpec)
    try:
        return _run(attempt, spec)
    except ServiceError as error:
        if not attempt.completed:
            raise
        # The registry has the template alone: lineage gets the tables with the failure.
        raise JobError(
            error.message,
            error.reason,
            details={"tables": source_records(from_json_bytes(spec.sources))},
        ) from None


def _run(attempt: Attempt, spec: pb.QuerySpec) -> dict[str, Any]:
    config = read_config(Config, "VISTAFLOW_QUERY_")
    secret = files.secret(secret_path(configuration.home()), SECRET_BYTES)
    check_signature(spec, bytes.fromhex(secret))
    stopped: list[int] = []
    # A query of Trino has to be ended there before this process ends.
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    tables = from_json_bytes(spec.sources)
    engine = engine_for(spec.request.engine, config, DuckDbEngine())
    folder = attempt.folder / "result"
    # What lost attempts have left: parts of results, and downloads. Never of newer attempts.
    for number in range(1, attempt.number + 1):
        earlier = attempt.folder.parent / str(number)
        for left in (earlier / "result", *earlier.glob("tables-*")):
            shutil.rmtree(left, ignore_errors=True)
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="tables-", dir=attempt.folder) as scratch:
        places = Places.of_environment(
            attempt.artifacts,
            spec.project,
            config.engine_disk_mib << 20,
            config.cache_mib << 20,
        )
        with local_tables(tables, relations(tables, engine), places, Path(scratch)) as sources:
            query = Query(
                sql=spec.converted_query,
                tables=sources,
                limit=spec.limit if spec.HasField("limit") else None,
                dialect=DIALECTS[spec.request.dialect],
                metadata={
                    "query_id": attempt.job_id,
                    "attempt": str(attempt.number),
                    "user_query": spec.request.user_query,
                    "converted_query": spec.converted_query,
                },
            )
            try:
                result = engine.run(
                    query,
                    folder,
                    limits=limits_of(config, attempt.workers),
                    should_stop=lambda: bool(stopped),
                    progress=_progress(attempt),
                )
            except QueryCanceled:
                sys.exit(128 + signal.SIGTERM)
    # From here on an end in the middle leaves nothing but what the sweep removes.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    storage = Storage(
        artifacts=attempt.artifacts,
        scratch=attempt.folder,
        cache_bytes=config.cache_mib << 20,
    )
    about = {
        "query_id": attempt.job_id,
        "columns": to_json(result.columns),
        "user_query": spec.request.user_query,
        "converted_query": spec.converted_query,
        "sources": [[table.target, table.version] for table in tables],
    }
    stored = storage.keep(folder, result.parts, about, spec.project)
    return {
        "result_name": attempt.job_id,
        "result_path": attempt.artifacts.uri(folder),
        "rows": result.rows,
        "bytes": result.bytes,
        **stored,
        "limited": result.limited,
        "plan_seconds": round(result.plan_seconds, 6),
        "run_seconds": round(result.run_seconds, 6),
        "engine": result.engine,
        "sources": [f"{table.target} {table.version[:20]}" for table in tables[:100]],
        **(completed_record(spec, tables, result.columns) if attempt.completed else {}),
    }


def limits_of(config: Config, threads: int) -> Limits:
    """What one query may use."""
    return Limits(
        seconds=float(config.max_seconds),
        memory_bytes=config.engine_memory_mib << 20,
        disk_bytes=config.engine_disk_mib << 20,
        threads=threads,
        rows=config.max_rows,
        bytes=config.engine_disk_mib << 20,
    )


def _progress(attempt: Attempt) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        percent = "" if progress.percent is None else f"{progress.percent:.0f} %"
        attempt.progress(progress.phase, progress.rows, unit="rows", message=percent)

    return report


JOBS: Final[dict[str, Callable[[Attempt], dict[str, Any]]]] = {"QUERY": run}
"""The jobs of this service, by type."""
