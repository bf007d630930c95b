"""Sources to a manifest: accepted rows, rejects, report.

Every row that is read is accepted, rejected with the name of a rule, or counted as a duplicate;
the report's counts add up. Nothing is stored before all tables are complete.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vistaflow_services.core.errors import InvalidError, field_error
from vistaflow_services.datasets.engine import (
    DISK_BYTES,
    MEMORY_BYTES,
    Engine,
    named,
    parquet,
    quoted,
)
from vistaflow_services.datasets.manifest import (
    Column,
    Manifest,
    Profile,
    QualityReport,
    Reference,
    Table,
    TableReport,
    find_column,
)
from vistaflow_services.datasets.parts import Room, limited, store_parts
from vistaflow_services.datasets.profile import profile_table
from vistaflow_services.datasets.quality import (
    DUPLICATE,
    Dedupe,
    Rule,
    check_rules,
    equal_sql,
    rules_sql,
    winners_sql,
)
from vistaflow_services.datasets.sources import Rows, Source, open_source
from vistaflow_services.stores.blobs import BlobStore

MAX_TABLES = 100

Watch = Callable[[str, float], None]
"""Takes what is done, for people, and how much of it, from 0 to 1."""

_NUMBER_BYTES = 64
"""Memory of one row number in the hash table of a join, at most."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """How a table is made from a source."""

    name: str
    source: Source
    primary_key: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    dedupe: Dedupe | None = None
    """Without it, the first row of a primary key stays."""

    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Built:
    """What an import gives to the registry."""

    manifest: Manifest
    report: QualityReport
    profile: Profile | None


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The written files of a table, in the scratch folder."""

    columns: tuple[Column, ...]
    accepted: Sequence[Path]
    rejects: Sequence[Path]
    report: TableReport


def build(
    tables: Sequence[TableSpec],
    store: BlobStore,
    folder: Path,
    *,
    with_profile: bool = True,
    field: str = "tables",
    watch: Watch | None = None,
    max_bytes: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    disk_bytes: int = DISK_BYTES,
) -> Built:
    """Imports tables as one dataset.

    Memory is bounded by `memory_bytes`, beyond which DuckDB spills to disk. The disk holds a copy
    of each source and of the result while this runs, and `disk_bytes` of spilled data at most.

    Args:
        tables: What to import.
        store: Where the Parquet files go.
        folder: An existing folder for temporary files.
        with_profile: Whether to compute the profile.
        field: Where the tables are in the request, for messages.
        watch: Told about twice a second what is done and how much of it, by another thread.
        max_bytes: What is left of the quota, or None.
        memory_bytes: Memory of the engine.
        disk_bytes: Disk for what the engine spills.

    Raises:
        InvalidError: A table is malformed, or its source is; names the field.
        ExhaustedError: A limit of memory, disk or quota is reached. Blobs that were stored before
            are swept later.
    """
    names = [table.name for table in tables]
    if not names or len(names) > MAX_TABLES or len(set(names)) < len(names):
        raise field_error(field, f"must be 1 to {MAX_TABLES} with different names")
    readable = [path for table in tables for path in table.source.paths]
    with (
        tempfile.TemporaryDirectory(prefix="dataset-", dir=folder) as scratch,
        Engine(Path(scratch), readable, memory_bytes=memory_bytes, disk_bytes=disk_bytes) as engine,
        engine.watched(watch) if watch else contextlib.nullcontext(),
    ):
        files = dict[str, _Files]()
        for number, table in enumerate(tables):
            with _of_table(f"{field}[{number}]", table.source.name):
                files[table.name] = _write(engine, table, number)
        engine.step = "find orphans"
        reports = [
            _with_orphans(engine, f"{field}[{number}]", table, files)
            if table.references
            else files[table.name].report
            for number, table in enumerate(tables)
        ]
        engine.step = "profile"
        profile = _profile(engine, files) if with_profile else None
        engine.step = "store"
        room = _room(engine, files.values(), max_bytes)
        manifest = Manifest(
            tables=tuple(
                Table(
                    name=table.name,
                    columns=files[table.name].columns,
                    primary_key=table.primary_key,
                    references=table.references,
                    parts=store_parts(store, files[table.name].accepted, room),
                    rejects=store_parts(store, files[table.name].rejects, room),
                )
                for table in tables
            )
        )
    return Built(manifest=manifest, report=QualityReport(tables=tuple(reports)), profile=profile)


def _room(engine: Engine, files: Iterable[_Files], max_bytes: int | None) -> Room:
    """Room for the files, which counts those that are stored."""
    paths = [path for table in files for path in (*table.accepted, *table.rejects)]
    total, left = sum(path.stat().st_size for path in paths), limited(max_bytes)
    engine.stored = 0.0

    def take(size: int) -> None:
        left(size)
        engine.stored = min(1.0, (engine.stored or 0.0) + size / total)

    return take


@contextlib.contextmanager
def _of_table(name: str, source: str) -> Iterator[None]:
    """Says of mistakes that are not those of its source which table they are in."""
    try:
        yield
    except InvalidError as error:
        field = error.violations[0].field
        if field.startswith(source):
            raise
        raise field_error(f"{name}.{field}", error.violations[0].description) from None


def _write(engine: Engine, table: TableSpec, number: int) -> _Files:
    """Judges and writes the rows of a table.

    Pass | reads                 | result
    1    | columns of the rules  | `bad_N`: number and rule of every row that violates one
    2    | key and `dedupe.by`   | `winners_N`: the number of the row that stays, of each key
    3    | all columns           | the accepted rows
    4    | all columns           | the rejects

    Numbers of rows are in memory, or spilled; rows are not.
    """
    engine.step = f"read {table.name}"
    rows, field = open_source(engine, table.source, number), table.source.name
    engine.step = f"check {table.name}"
    check_rules(engine, table.rules, rows.columns)
    bad, winners = f"bad_{number}", f"winners_{number}"
    rule = rules_sql(table.rules, table.primary_key, rows.columns)
    engine.rows(
        f"CREATE TEMP TABLE {bad} AS SELECT _row AS bad, _rule "
        f"FROM (SELECT _row, {rule} AS _rule FROM {rows.relation}) WHERE _rule IS NOT NULL",
        field=field,
    )
    accepted = f"{rows.relation} ANTI JOIN {bad} ON bad = _row"
    rejected = f"{rows.relation} JOIN {bad} ON bad = _row"
    numbers = engine.count(bad)
    query = winners_sql(table.dedupe, table.primary_key, rows.columns, accepted)
    if query:
        engine.rows(f"CREATE TEMP TABLE {winners} AS {query}", field=field)
        accepted = f"{rows.relation} SEMI JOIN {winners} ON winner = _row"
        if table.dedupe is None or table.dedupe.record:
            losing = f"(SELECT * FROM {rows.relation} ANTI JOIN {winners} ON winner = _row)"
            rejected = f"{losing} LEFT JOIN {bad} ON bad = _row"
        numbers += engine.count(winners)
    engine.step = f"write {table.name}"
    # A join keeps the order of the rows only if its right side fits in memory.
    order = "ORDER BY _row" if numbers * _NUMBER_BYTES > engine.memory_bytes // 4 else ""
    values = ", ".join(named(column.name) for column in rows.columns)
    files = engine.write(
        f"SELECT {values} FROM {accepted} {order}", f"accepted-{number}", field=field
    )
    rejects = engine.write(
        f"SELECT {values}, coalesce(_rule, {quoted(DUPLICATE)}) AS _rule, _row, _value "
        f"FROM {rejected} {order}",
        f"rejects-{number}",
        level=1,
        field=field,
    )
    return _Files(
        columns=rows.columns,
        accepted=files,
        rejects=rejects,
        report=_report(engine, table.name, rows, files, rejects),
    )


def _report(
    engine: Engine, name: str, rows: Rows, accepted: Sequence[Path], rejects: Sequence[Path]
) -> TableReport:
    read, accepted_count = engine.count(rows.relation), engine.count(parquet(accepted))
    by_rule = engine.rows(
        f"SELECT _rule, count(*) FROM {parquet(rejects)} GROUP BY _rule ORDER BY _rule"
    )
    rejected = {rule: int(count) for rule, count in by_rule}
    return TableReport(
        table=name,
        read_count=read,
        accepted_count=accepted_count,
        rejected=rejected,
        dropped_count=read - accepted_count - sum(rejected.values()),
    )


def _with_orphans(
    engine: Engine, name: str, table: TableSpec, files: Mapping[str, _Files]
) -> TableReport:
    report, orphans = files[table.name].report, {}
    for index, reference in enumerate(table.references):
        where = f"{name}.references[{index}]"
        if reference.table not in files:
            raise field_error(f"{where}.table", f"there is no table `{reference.table}`")
        if not reference.columns or len(reference.columns) != len(reference.key):
            raise field_error(where, "needs as many key columns as columns, and at least one")
        target = files[reference.table]
        own, others = files[table.name].columns, target.columns
        pairs, present = [], []
        for left, right in zip(reference.columns, reference.key, strict=True):
            child = find_column(own, left, f"{where}.columns")
            parent = find_column(others, right, f"{where}.key")
            pairs.append(equal_sql(child, parent))
            present.append(f"child.{named(child.name)} IS NOT NULL")
        orphans[reference.name] = engine.count(
            f"(SELECT 1 FROM {parquet(files[table.name].accepted)} AS child "
            f"ANTI JOIN {parquet(target.accepted)} AS parent "
            f"ON {' AND '.join(pairs)} WHERE {' AND '.join(present)})",
            field=where,
        )
    return replace(report, orphans=orphans)


def _profile(engine: Engine, files: Mapping[str, _Files]) -> Profile:
    return Profile(
        tables=tuple(
            profile_table(engine, name, parquet(table.accepted), table.columns)
            for name, table in files.items()
        )
    )
