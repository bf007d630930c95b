"""Tables, and the engines that read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pytest

from tests.integration.query.engines import trino_server
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.conversion import converted
from vistaflow_services.query.engines.contract import DataFile, Engine, Query, Result, SourceTable
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.engines.forking import ForkingServer
from vistaflow_services.query.engines.trino_engine import TrinoEngine, Warehouse
from vistaflow_services.query.statement import Dialect, Statement, parse

REVIEWS = """
    SELECT range AS id, (range * 7) % 45 + 1 AS user_id,
        CASE WHEN range % 11 <> 3 THEN CAST(range % 5 + 1 AS INTEGER) END AS stars,
        CAST(range * 1.25 + 0.05 AS DECIMAL(12, 2)) AS price,
        sqrt(range) - 3 AS score,
        '리뷰 ' || chr(CAST(97 + range % 26 AS INTEGER)) || range AS body,
        CASE range % 3 WHEN 0 THEN true WHEN 1 THEN false END AS flag,
        CAST(DATE '2023-11-01' + INTERVAL (range // 4) DAY AS DATE) AS day,
        TIMESTAMP '2023-11-01 08:30:15.25' + INTERVAL (range * 17) MINUTE AS ts,
        CASE range % 4 WHEN 0 THEN ['a', 'b'] WHEN 1 THEN ['c'] WHEN 2 THEN [] END AS tags,
        CAST(year(DATE '2023-11-01' + INTERVAL (range // 4) DAY) AS INTEGER) AS year,
        CAST(month(DATE '2023-11-01' + INTERVAL (range // 4) DAY) AS INTEGER) AS month
    FROM range(480)
"""
USERS = """
    SELECT CAST(range + 1 AS INTEGER) AS id,
        ['김철수', 'Anna', '이영희', 'Bob', '박 Min'][range % 5 + 1] || range AS name,
        CASE range % 6 WHEN 0 THEN NULL WHEN 1 THEN 'KR' WHEN 2 THEN 'US' ELSE 'DE' END AS country,
        TIMESTAMPTZ '2020-02-29 00:00:00+00' + INTERVAL (range) HOUR AS joined,
        MAP {'a': CAST(range AS INTEGER), 'b': CAST(range * 2 AS INTEGER)} AS attrs,
        {'city': CASE range % 3 WHEN 0 THEN 'Seoul' WHEN 1 THEN 'Bonn' END,
         'zip': CAST(range * 10 AS INTEGER)} AS place
    FROM range(50)
"""
ORDERS = """
    SELECT range AS "번호", CAST(range % 30 + 1 AS INTEGER) AS "고객",
        CAST(range * 3.1415 AS DECIMAL(18, 4)) AS "금액",
        CASE WHEN range % 2 = 0 THEN '메모 ' || range END AS "메모"
    FROM range(60)
"""
PARTITIONS = (Column(name="year", type="INTEGER"), Column(name="month", type="INTEGER"))


@dataclass(frozen=True)
class Tables:
    """What the tests query, and how an engine is asked."""

    sources: Mapping[str, SourceTable]

    def query(self, statement: Statement, engine: Engine) -> Query:
        """A statement as an engine runs it."""
        names = {name: name.parts[-1] for name in statement.tables}
        relations = {
            name: engine.relation(f"test_{list(self.sources).index(source)}")
            if isinstance(engine, TrinoEngine)
            else (source,)
            for name, source in names.items()
            if source in self.sources
        }
        relations |= {name: name.parts for name in names if name not in relations}
        limit, offset = statement.limit, statement.offset
        return Query(
            sql=converted(statement, engine.dialect, relations, limit=limit, offset=offset),
            tables=tuple(
                replace(self.sources[source], relation=relations[name])
                for name, source in names.items()
                if source in self.sources
            ),
            limit=limit,
            dialect=statement.dialect,
            metadata={"vistaflow.sql": statement.text},
        )

    def run(
        self, engine: Engine, sql: str, folder: Path, dialect: Dialect = Dialect.TRINO
    ) -> Result:
        """The result of a text."""
        return engine.run(self.query(parse(sql, dialect=dialect), engine), folder)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("tables"))


def make_tables(folder: Path) -> Tables:
    """Writes the tables."""
    options = "(FORMAT parquet, PARTITION_BY (year, month))"
    sources: dict[str, SourceTable] = {}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY ({REVIEWS}) TO '{folder}/reviews' {options}")
        for name, query in (("users", USERS), ("주문", ORDERS)):
            connection.execute(f"COPY ({query}) TO '{folder}/{name}.parquet' (FORMAT parquet)")
        for name, query in (("reviews", REVIEWS), ("users", USERS), ("주문", ORDERS)):
            described = connection.execute(f"DESCRIBE {query}").fetchall()
            columns = [Column(name=row[0], type=row[1]) for row in described]
            files = [DataFile(path=folder / f"{name}.parquet")]
            if name == "reviews":
                paths = sorted((folder / name).rglob("*.parquet"), key=_partition_order)
                files = [DataFile(path=path, partition=_keys(path)) for path in paths]
            keys = PARTITIONS if name == "reviews" else ()
            sources[name] = SourceTable(
                relation=(name,),
                columns=tuple(column for column in columns if column not in keys),
                partitions=keys,
                files=tuple(files),
            )
    return Tables(sources)


def _keys(path: Path) -> tuple[str, ...]:
    return tuple(re.findall(r"=(\d+)", str(path)))


def _partition_order(path: Path) -> list[int]:
    return [int(key) for key in _keys(path)]


@pytest.fixture(scope="session")
def duckdb_engine() -> Iterator[DuckDbEngine]:
    server = ForkingServer()
    yield DuckDbEngine(server)
    server.close()


@pytest.fixture(scope="session")
def trino_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrinoEngine]:
    if reason := trino_server.missing():
        pytest.skip(reason)
    server = trino_server.TrinoServer(tmp_path_factory.mktemp("trino"))
    try:
        server.wait()
        warehouse = Warehouse(folder=server.warehouse, location="local:///")
        yield TrinoEngine(server.url, user="test", warehouse=warehouse)
    finally:
        server.stop()
