"""One contract over DuckDB and a real Trino, and over 200 SELECTs that mean the same on both.

The answers of Trino are kept in `selects.json`, so that DuckDB's are compared with them where no
Trino can run. `VISTAFLOW_RECORD=1` writes the file again.
"""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.integration.query.engines.answers import (
    ANSWERS,
    plain_table,
    recorded,
    rows_of,
    selects,
)
from tests.integration.query.engines.conftest import Tables
from vistaflow_services.core.errors import ExhaustedError, TooSlowError
from vistaflow_services.datasets.engine import listed, named
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.duckdb_functions import macros
from vistaflow_services.query.engines.contract import Engine, Limits, Progress, QueryCanceled
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.engines.trino_engine import TrinoEngine
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import parse

pytestmark = [pytest.mark.trino, pytest.mark.timeout(1200)]


def answers(engine: Engine, tables: Tables, folder: Path) -> dict[str, Any]:
    """The rows of every SELECT, or None where it is refused; four queries run at once."""

    def answer(sql: str) -> Any:
        place = Path(tempfile.mkdtemp(dir=folder))
        try:
            return rows_of(tables.run(engine, sql, place), sql)
        except QueryError:
            return None

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(selects(), pool.map(answer, selects()), strict=True))


@pytest.fixture(scope="module")
def duckdb_answers(
    duckdb_engine: DuckDbEngine, tables: Tables, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return answers(duckdb_engine, tables, tmp_path_factory.mktemp("duckdb"))


def differences(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """The queries that should agree and do not."""
    return {
        sql: (left[sql], right[sql])
        for sql, reason in selects().items()
        if not reason and (left[sql] is None or left[sql] != right[sql])
    }


def test_duckdb_answers_every_select_as_trino_did(duckdb_answers: dict[str, Any]) -> None:
    assert len(selects()) >= 200
    assert differences(duckdb_answers, recorded()) == {}


def test_every_answer_is_that_of_duckdb_without_a_sandbox(
    duckdb_answers: dict[str, Any], duckdb_engine: DuckDbEngine, tables: Tables
) -> None:
    direct: dict[str, Any] = {}
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'; SET integer_division = true")
        for macro in macros().values():
            connection.execute(macro)
        for name, source in tables.sources.items():
            files = listed(str(file.path) for file in source.files)
            connection.execute(f"CREATE VIEW {named(name)} AS FROM read_parquet({files})")
        for sql, rows in duckdb_answers.items():
            if rows is None:
                direct[sql] = None
                continue
            query = tables.query(parse(sql), duckdb_engine)
            table = connection.sql(query.sql).to_arrow_table()
            direct[sql] = plain_table(table.slice(0, query.limit), sql)

    assert differences(direct, duckdb_answers) == {}


def test_trino_answers_every_select_as_recorded(
    trino_engine: TrinoEngine, tables: Tables, tmp_path: Path
) -> None:
    trino_answers = answers(trino_engine, tables, tmp_path)
    if os.environ.get("VISTAFLOW_RECORD"):
        pairs = [
            ": ".join(json.dumps(part, ensure_ascii=False) for part in pair)
            for pair in trino_answers.items()
        ]
        ANSWERS.write_text("{\n" + ",\n".join(pairs) + "\n}\n", "utf-8")

    assert differences(trino_answers, recorded()) == {}


@pytest.fixture(params=["duckdb_engine", "trino_engine"])
def engine(request: pytest.FixtureRequest) -> Engine:
    instance: Engine = request.getfixturevalue(request.param)
    return instance


LONG = {
    "duckdb": "select count(*) from reviews a, reviews b, reviews c, reviews d where a.id < d.id",
    "trino": "select count(*) from tpch.sf100.orders a, tpch.sf100.orders b where a.custkey < 9",
}


class TestContract:
    """What every engine does."""

    def test_a_result_has_columns_types_rows_and_the_metadata(
        self, engine: Engine, tables: Tables, tmp_path: Path
    ) -> None:
        sql = 'select id, price, body, day, ts, tags, year, 1 as "한 글" from reviews order by id'

        result = tables.run(engine, sql, tmp_path)

        assert [(column.name, column.type) for column in result.columns] == [
            ("id", "BIGINT"),
            ("price", "DECIMAL(12,2)"),
            ("body", "VARCHAR"),
            ("day", "DATE"),
            ("ts", "TIMESTAMP"),
            ("tags", "VARCHAR[]"),
            ("year", "INTEGER"),
            ("한 글", "INTEGER"),
        ]
        assert (result.rows, result.limited) == (480, False)
        assert result.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
        metadata = pq.read_metadata(result.parts[0].path).metadata
        assert metadata[b"vistaflow.sql"] == sql.encode()

    def test_the_limit_cuts_a_result_and_says_so_only_then(
        self, engine: Engine, tables: Tables, tmp_path: Path
    ) -> None:
        results = []
        for limit in (479, 480, 481, 0):
            folder = tmp_path / str(limit)
            folder.mkdir()
            result = tables.run(engine, f"select id from reviews limit {limit}", folder)
            results.append((result.rows, result.limited))

        assert results == [(479, True), (480, False), (480, False), (0, True)]

    def test_a_result_without_rows_has_its_columns(
        self, engine: Engine, tables: Tables, tmp_path: Path
    ) -> None:
        result = tables.run(engine, "select id, name from users where id < 0", tmp_path)

        assert [part.rows for part in result.parts] == [0]
        assert pq.read_schema(result.parts[0].path).names == ["id", "name"]

    def test_names_of_a_result_differ(self, engine: Engine, tables: Tables, tmp_path: Path) -> None:
        sql = "select a.id, b.id, b.name from users a join users b on a.id = b.id"

        result = tables.run(engine, sql, tmp_path)

        assert pq.read_schema(result.parts[0].path).names == ["id", "id_1", "name"]
        assert [column.name for column in result.columns] == ["id", "id_1", "name"]

    def test_validation_knows_the_columns_without_running(
        self, engine: Engine, tables: Tables
    ) -> None:
        statement = parse("select name, count(*) n, max(place.zip) from users group by name")

        columns = engine.validate(tables.query(statement, engine))

        assert columns == (
            Column(name="name", type="VARCHAR"),
            Column(name="n", type="BIGINT"),
            Column(name="_col2", type="INTEGER"),
        )

    @pytest.mark.parametrize(
        ("sql", "message"),
        [
            ("select nope from users", r"[Cc]olumn .nope. "),
            ("select nope(id) from users", "[Ff]unction .*nope"),
            ("select cast(name as integer) from users", "김철수0"),
            ("select id / 0 from users", "[Dd]ivision by zero"),
            ("select sum(name) from users", "sum"),
        ],
    )
    def test_what_an_engine_refuses_is_an_error_of_the_query(
        self, sql: str, message: str, engine: Engine, tables: Tables, tmp_path: Path
    ) -> None:
        with pytest.raises(QueryError, match=message):
            tables.run(engine, sql, tmp_path)

        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("limits", "reason"),
        [(Limits(rows=400), "RESULT_ROWS"), (Limits(bytes=100), "RESULT_BYTES")],
    )
    def test_a_result_over_a_limit_is_refused_and_leaves_nothing(
        self, limits: Limits, reason: str, engine: Engine, tables: Tables, tmp_path: Path
    ) -> None:
        query = tables.query(parse("select * from reviews"), engine)

        with pytest.raises(ExhaustedError) as caught:
            engine.run(query, tmp_path, limits=limits)

        assert (caught.value.reason, list(tmp_path.iterdir())) == (reason, [])

    def test_a_query_over_its_time_is_stopped(
        self, engine: Engine, tables: Tables, tmp_path: Path
    ) -> None:
        query = tables.query(parse(LONG[engine.dialect]), engine)

        with pytest.raises(TooSlowError):
            engine.run(query, tmp_path, limits=Limits(seconds=1))

        assert list(tmp_path.iterdir()) == []

    def test_a_running_query_is_cancelled(
        self, engine: Engine, tables: Tables, tmp_path: Path
    ) -> None:
        reports: list[Progress] = []
        query = tables.query(parse(LONG[engine.dialect]), engine)

        with pytest.raises(QueryCanceled):
            engine.run(
                query,
                tmp_path,
                should_stop=lambda: "running" in [report.phase for report in reports],
                progress=reports.append,
            )

        assert list(tmp_path.iterdir()) == []
