"""The columns of files, with DuckDB's types."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow.parquet as pq

from vistaflow_services.datasets.manifest import Column

HEADER_BYTES = 1 << 20
"""Most bytes of the line with the names of a CSV file."""


def parquet_columns(file: Path | BinaryIO) -> tuple[Column, ...]:
    """The columns of a Parquet file, with DuckDB's types."""
    schema = pq.read_schema(file)
    with duckdb.connect() as connection:
        relation = connection.from_arrow(schema.empty_table())
        kinds = map(str, relation.types)
        return tuple(
            Column(name=name, type=kind) for name, kind in zip(relation.columns, kinds, strict=True)
        )


def csv_columns(file: BinaryIO, *, compressed: bool) -> tuple[Column, ...]:
    """The columns of a CSV file with a header; all of them are text.

    Args:
        file: Of it the first MiB is read.
        compressed: Whether it is gzip.
    """
    content = gzip.GzipFile(fileobj=file) if compressed else file
    line = content.read(HEADER_BYTES).partition(b"\n")[0].decode("utf-8-sig")
    header = next(csv.reader(io.StringIO(line, newline="")), [])
    return tuple(Column(name=name, type="VARCHAR") for name in header)


def json_columns(paths: Sequence[Path]) -> tuple[Column, ...]:
    """The columns of JSON files, with types that fit every value: all of it is read.

    Raises:
        duckdb.Error: It is no JSON, has something else than objects, or an object is larger than
            16 MiB.
    """
    with duckdb.connect(config={"threads": 1, "memory_limit": "256MB"}) as connection:
        relation = connection.execute(
            "DESCRIBE SELECT * FROM read_json($paths, sample_size = -1, union_by_name = true,"
            " records = true, hive_partitioning = false)",
            {"paths": [str(path) for path in paths]},
        )
        return tuple(Column(name=row[0], type=row[1]) for row in relation.fetchall())
