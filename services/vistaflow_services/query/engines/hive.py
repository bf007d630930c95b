"""Datasets as tables of Trino: external hive tables over links to our Parquet files.

The warehouse is a folder that this process and Trino can see. A table stays there for later queries
of the same version: its name belongs to its content. Hive has no times with zone, so each table is
read through a view that gives them back their zone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.datasets.engine import named, quoted
from vistaflow_services.query.engines import trino_values
from vistaflow_services.query.engines.contract import FileFormat, SourceTable
from vistaflow_services.query.mistakes import QueryError

_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class Warehouse:
    """Where files become tables of Trino."""

    folder: Path
    """As this process sees it."""

    location: str
    """As Trino sees it, such as `local:///` or `s3://bucket/prefix`."""

    catalog: str = "hive"
    schema: str = "vistaflow"


def publish(ask: Callable[[str], list[Any]], warehouse: Warehouse, table: SourceTable) -> None:
    """Links a table's files into the warehouse and declares them, if that is not done.

    Args:
        ask: Executes a statement at the server and returns its rows.
        warehouse: Where the files go.
        table: With Parquet files, its columns, and three names as its relation.

    Raises:
        QueryError: Trino cannot read a column's type, or files of this format.
        NotFoundError: A file is gone.
    """
    catalog, schema, name = table.relation
    if table.format is not FileFormat.PARQUET or not table.columns:
        raise QueryError(f"Trino reads only Parquet files with known columns: {name}; use DuckDB")
    declared, selected = [], []
    for column in (*table.columns, *table.partitions):
        identifier, kind = named(column.name), trino_values.trino_type(column)
        if kind is None:
            problem = f"Trino cannot read the column `{column.name}` of type {column.type}"
            raise QueryError(f"{problem}; run the query on DuckDB")
        declared.append(f"{identifier} {kind}")
        zoned = column.type == "TIMESTAMP WITH TIME ZONE"
        value = f"with_timezone({identifier}, 'UTC')" if zoned else identifier
        selected.append(f"{value} AS {identifier}")
    if not (warehouse.folder / name).exists():
        _link(table, warehouse.folder / name)
    location = f"{warehouse.location.removesuffix('/')}/{name}"
    options = [f"external_location = {quoted(location)}", "format = 'PARQUET'"]
    keys = ", ".join(quoted(key.name) for key in table.partitions)
    options += [f"partitioned_by = ARRAY[{keys}]"] if keys else []
    place = f"{named(catalog)}.{named(schema)}"
    files = named(f"{name}_files")
    ask(f"CREATE SCHEMA IF NOT EXISTS {place}")
    if ask(f"SHOW TABLES FROM {place} LIKE {quoted(name)}"):
        return
    ask(
        f"CREATE TABLE IF NOT EXISTS {place}.{files} ({', '.join(declared)}) "
        f"WITH ({', '.join(options)})"
    )
    if keys:
        ask(
            f"CALL {named(catalog)}.system.sync_partition_metadata("
            f"{quoted(schema)}, {quoted(f'{name}_files')}, 'FULL')"
        )
    # Last, because it says that the table is complete.
    ask(
        f"CREATE OR REPLACE VIEW {place}.{named(name)} AS "
        f"SELECT {', '.join(selected)} FROM {place}.{files}"
    )


def _link(table: SourceTable, place: Path) -> None:
    """Makes the folder of a table, complete or not at all."""
    draft = place.with_name(f".{place.name}-{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        for number, file in enumerate(table.files):
            keys = [
                f"{quote(key.name, safe='')}={quote(value or _NO_PARTITION, safe='')}"
                for key, value in zip(table.partitions, file.partition, strict=True)
            ]
            folder = draft.joinpath(*keys)
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{number:06}.parquet"
            try:
                os.link(file.path, target)
            except FileNotFoundError:
                problem = f"a file of {place.name} is gone; run the query again"
                raise NotFoundError(problem, reason="SOURCE_GONE") from None
            except OSError:  # another file system
                shutil.copyfile(file.path, target)
        with contextlib.suppress(OSError):  # another process was first
            draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
