"""What engines read: partitions in order, formats, and values that stay exact."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.integration.query.engines.conftest import Tables
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.engines.contract import (
    DataFile,
    FileFormat,
    Query,
    Result,
    SourceTable,
)
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import Dialect


def rows(result: Result) -> list[dict[str, object]]:
    table_rows: list[dict[str, object]] = pq.read_table(
        [part.path for part in result.parts]
    ).to_pylist()
    return table_rows


def test_partitions_are_read_in_their_order_without_a_sort(
    duckdb_engine: DuckDbEngine, tables: Tables, tmp_path: Path
) -> None:
    source = tables.sources["reviews"]
    backwards = replace(source, files=source.files[::-1])
    months = []
    for index, table in enumerate((source, backwards)):
        folder = tmp_path / str(index)
        folder.mkdir()
        result = duckdb_engine.run(Query(sql="select * from reviews", tables=(table,)), folder)
        months.append(list(dict.fromkeys((row["year"], row["month"]) for row in rows(result))))

    assert months[0] == [(2023, 11), (2023, 12), (2024, 1), (2024, 2)]
    assert months[1] == months[0][::-1]


def test_a_filter_on_partitions_opens_theirs_alone(
    duckdb_engine: DuckDbEngine, tables: Tables, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 nothing PAR1")
    source = tables.sources["reviews"]
    first, *others = source.files
    broken = replace(source, files=(first, *(replace(file, path=damaged) for file in others)))
    folder = tmp_path / "result"
    folder.mkdir()

    for condition in ("year = 2023 and month = 11", "month between 10 and 11"):
        query = Query(sql=f"select id from reviews where {condition}", tables=(broken,))
        assert duckdb_engine.run(query, folder).rows == 120

    with pytest.raises(QueryError):
        duckdb_engine.run(Query(sql="select count(*) from reviews", tables=(broken,)), folder)


FIRST = '{"id":1,"이름":"글렌, \\"12\\"","price":1.5}'


@pytest.mark.parametrize(
    ("format", "header", "text"),
    [
        (FileFormat.CSV, True, 'id,이름,price\n1,"글렌, ""12""",1.50\n2,,2\n'),
        (FileFormat.CSV, False, '1,"글렌, ""12""",1.50\n2,,2\n'),
        (FileFormat.JSON, True, FIRST + '\n{"id":2,"price":2}\n'),
        (FileFormat.JSON, True, "[" + FIRST + ', {"id":2,"price":2}]'),
    ],
)  # fmt: skip
def test_text_files_are_read_with_the_declared_types(
    format: FileFormat, header: bool, text: str, duckdb_engine: DuckDbEngine, tmp_path: Path
) -> None:
    path = tmp_path / f"data.{format}"
    path.write_text(text, "utf-8")
    source = SourceTable(
        relation=("prices",),
        columns=(
            Column(name="id", type="BIGINT"),
            Column(name="이름", type="VARCHAR"),
            Column(name="price", type="DECIMAL(10,2)"),
        ),
        partitions=(Column(name="day", type="DATE"),),
        files=(DataFile(path=path, partition=("2024-02-29",)),),
        format=format,
        header=header,
    )
    folder = tmp_path / "result"
    folder.mkdir()

    result = duckdb_engine.run(Query(sql="select * from prices", tables=(source,)), folder)

    day = datetime(2024, 2, 29).date()
    assert rows(result) == [
        {"id": 1, "이름": '글렌, "12"', "price": Decimal("1.50"), "day": day},
        {"id": 2, "이름": None, "price": Decimal("2.00"), "day": day},
    ]


def test_a_table_without_files_has_its_columns(duckdb_engine: DuckDbEngine, tmp_path: Path) -> None:
    empty = SourceTable(
        relation=("nothing",),
        columns=(Column(name="id", type="BIGINT"),),
        partitions=(Column(name="day", type="DATE"),),
    )

    result = duckdb_engine.run(Query(sql="select * from nothing", tables=(empty,)), tmp_path)

    assert [(column.name, column.type) for column in result.columns] == [
        ("id", "BIGINT"),
        ("day", "DATE"),
    ]


@pytest.mark.parametrize(
    ("sql", "kind", "value"),
    [
        ("9223372036854775807::hugeint * 1000", "DECIMAL(38,0)", Decimal(9223372036854775807000)),
        ("12345678901234567890.123456789::decimal(38,9)", "DECIMAL(38,9)",
         Decimal("12345678901234567890.123456789")),
        ("timestamptz '2024-01-01 09:00:00.000001+09'", "TIMESTAMP WITH TIME ZONE",
         datetime(2024, 1, 1, 0, 0, 0, 1, UTC)),
        ("interval 3 day", "VARCHAR", "3 days"),
        ("'00000000-0000-0000-0000-000000000001'::uuid", "VARCHAR",
         "00000000-0000-0000-0000-000000000001"),
        ("'a'::enum('a', 'b''c')", "VARCHAR", "a"),
        ("null", "INTEGER", None),
        ("{'가 나': [1::hugeint, null]}", 'STRUCT("가 나" DECIMAL(38,0)[])',
         {"가 나": [Decimal(1), None]}),
        ("map {'k': 1.5}", "MAP(VARCHAR, DECIMAL(2,1))", [("k", Decimal("1.5"))]),
        ("'\\x00ff'::blob", "BLOB", b"\x00ff"),
        ("'{\"a\": 1}'::json", "VARCHAR", '{"a": 1}'),
        ("1e400", "DOUBLE", float("inf")),
    ],
)  # fmt: skip
def test_values_of_every_type_are_exact(
    sql: str, kind: str, value: object, duckdb_engine: DuckDbEngine, tmp_path: Path
) -> None:
    query = Query(sql=f"select {sql} as x", dialect=Dialect.DUCKDB)

    result = duckdb_engine.run(query, tmp_path)

    assert (result.columns[0].type, rows(result)[0]["x"]) == (kind, value)


def test_many_files_are_one_table(duckdb_engine: DuckDbEngine, tmp_path: Path) -> None:
    folder = tmp_path / "result"
    folder.mkdir()
    path = tmp_path / "one.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1 AS x) TO '{path}' (FORMAT parquet)")
    source = SourceTable(
        relation=("many",),
        partitions=(Column(name="n", type="INTEGER"),),
        files=tuple(DataFile(path=path, partition=(str(number),)) for number in range(1_000)),
    )
    query = Query(sql="select sum(x) as files, sum(n) as numbers from many", tables=(source,))

    assert rows(duckdb_engine.run(query, folder)) == [{"files": 1000, "numbers": 499500}]
