"""A text becomes one checked SELECT, or an error that says where and why."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from sqlglot import exp

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.query.mistakes import QueryError, nearest
from vistaflow_services.query.parameters import Parameter, ParameterType, literal
from vistaflow_services.query.statement import Dialect, Position, parse


def names(sql: str, dialect: Dialect = Dialect.TRINO) -> list[str]:
    return [name.text for name in parse(sql, dialect=dialect).tables]


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("select 1", []),
        ("select * from reviews", ["reviews"]),
        ("select * from Reviews r join REVIEWS s on true", ["reviews"]),
        ('select * from "Reviews"', ["Reviews"]),
        ("select * from reviews@3", ["reviews@3"]),
        ("select * from reviews@final where x = 1", ["reviews@final"]),
        ('select * from "reviews@rc-1.2"', ["reviews@rc-1.2"]),
        ("select * from a.b.c.d@7 x", ["a.b.c.d@7"]),
        ('select * from "my.lake".reviews', ['"my.lake".reviews']),
        ("select * from 위스키@2", ["위스키@2"]),
        ("select reviews@3.stars from reviews@3", ["reviews@3"]),
        ("select * from a, b cross join c", ["a", "b", "c"]),
        ("select * from (a join b on true)", ["a", "b"]),
        ("select * from a where x in (select y from b where z = (select 1 from c))", list("abc")),
        ("with a as (select * from b) select * from a", ["b"]),
        ("with a as (select * from a) select * from a", ["a"]),
        ("with recursive a as (select 1 x union all select x from a) select * from a", []),
        ("with a as (select 1), b as (select * from a) select * from b, c", ["c"]),
        ("with b as (select * from a), a as (select 1) select * from b", ["a"]),
        ("select * from (with a as (select 1) select * from a), a", ["a"]),
        ("with a as (select 1) select * from x.a", ["x.a"]),
        ("with a as (select 1) select * from a@2", ["a@2"]),
        ("select * from t cross join unnest(t.tags) as u(tag)", ["t"]),
        ("(select * from a) union select * from b", ["a", "b"]),
        ("select * from a t, lateral (select * from b where b.x = t.x) u", ["a", "b"]),
        ("table a", ["a"]),
    ],
)
def test_the_tables_of_a_query_are_those_it_reads(sql: str, tables: list[str]) -> None:
    assert sorted(names(sql)) == sorted(tables)


def test_a_table_has_every_place_where_it_is_named() -> None:
    statement = parse("select *\nfrom 리뷰 a\n  join s.t@2 b on true\n  join 리뷰 c on true")

    assert [(name.text, name.positions) for name in statement.tables] == [
        ("리뷰", (Position(line=2, column=6), Position(line=4, column=8))),
        ("s.t@2", (Position(line=3, column=8),)),
    ]


@pytest.mark.parametrize(
    ("sql", "limits"),
    [
        ("select 1", (None, 0)),
        ("select 1 limit 5", (5, 0)),
        ("select 1 limit all", (None, 0)),
        ("select 1 offset 20 limit 10", (10, 20)),
        ("select 1 limit 10 offset 20", (10, 20)),
        ("select 1 offset 3 rows fetch first 7 rows only", (7, 3)),
        ("select 1 fetch next row only", (1, 0)),
        ("select 1 union all select 2 limit 3", (3, 0)),
        ("(select 1 limit 9) limit 3", (3, 0)),
        ("select * from (select 1 limit 3) limit 9", (9, 0)),
        ("with a as (select 1 limit 4) select * from a", (None, 0)),
        ("select 1 limit :n", (4, 0)),
    ],
)
def test_the_outermost_limits_are_split_out(sql: str, limits: tuple[int | None, int]) -> None:
    parameters = {"n": Parameter(type=ParameterType.WHOLE, value=4)} if ":n" in sql else {}

    statement = parse(sql, parameters=parameters)

    assert (statement.limit, statement.offset) == limits
    assert statement.tree.args.get("limit") is None


@pytest.mark.parametrize(
    ("sql", "place", "problem"),
    [
        ("", None, "is empty"),
        ("selec 1", (1, 7), "is not SQL, near `1`"),
        ("select a,, b from t", (1, 9), "two commas"),
        ("select a, from t", (1, 9), "a comma that nothing follows"),
        ("select (1", (1, 9), r"Expecting \)"),
        ("select 1)", (1, 9), "closes what is not open"),
        ("select\n  'abc", (2, 3), "does not end"),
        ("select 1 /* x", (1, 10), "does not end"),
        ("select a from t where", (1, 17), "WHERE is not complete"),
        ("select 1; select 2", (1, 9), "more than one statement"),
        ("insert into t select 1", (1, 1), "is INSERT; a query is exactly one SELECT"),
        ("explain select 1", (1, 1), "is EXPLAIN"),
        ("values 1", (1, 1), "is VALUES"),
        ("with x as (delete from t returning *) select * from x", (1, 24), "DELETE"),
        ("select * from (describe t)", (1, 25), "DESCRIBE"),
        ("select * into x from t", (1, 15), "INTO"),
        ("select * from read_csv('x')", (1, 15), "table function read_csv"),
        ("select * from table(sequence(1, 2))", (1, 15), "table function"),
        ("select * from lateral f(1)", None, "LATERAL"),
        ("select 1,\n current_setting('x')", (2, 2), "function current_setting"),
        ("select ?", None, "write `:name`"),
        ("select $1", (1, 8), "write `:name`"),
        ('select "$path" from t', (1, 8), "path"),
        ("select :n", (1, 8), "`:n` has no value"),
        ("select * from a.b.c.d.e", (1, 15), "no name of a table"),
        ("select * from a@", None, "PARAMETER is not complete"),
        ('select * from "a$files"', (1, 15), "no name of a table"),
        ("select * from t for version as of 3", (1, 15), "VERSION"),
        ("select 1 limit 1 + 1", (1, 16), "LIMIT must be a whole number"),
        ("select 1 limit x", (1, 16), "LIMIT must be a whole number"),
        ("select * from t fetch first 3 rows with ties", None, "WITH TIES"),
        ("select '\0'", (1, 9), "zero byte"),
    ],
)
def test_what_is_not_one_select_is_refused_with_its_place(
    sql: str, place: tuple[int, int] | None, problem: str
) -> None:
    with pytest.raises(QueryError, match=problem) as caught:
        parse(sql)

    position = caught.value.position
    if place is not None:
        assert position == Position(line=place[0], column=place[1])
        assert caught.value.metadata == {"line": str(place[0]), "column": str(place[1])}


@pytest.mark.parametrize(
    "sql",
    [
        "from t",
        "select a::int, from t",
        "select {'a':b, 'c': d}, x[1:2], y[:3] from t",
        "select * exclude (a), columns('b.*') from t",
        "select * from range(3), generate_series(1, 3) t(x)",
        "select @ -1",
    ],
)
def test_duckdb_dialect_is_read_as_such(sql: str) -> None:
    assert parse(sql, dialect=Dialect.DUCKDB).dialect is Dialect.DUCKDB


@pytest.mark.parametrize(
    ("sql", "volatile"),
    [
        ("select 1, upper('now()'), date '2024-01-01'", ()),
        ("select now()", ("current_timestamp",)),
        ("select current_date, current_timestamp(3)", ("current_date", "current_timestamp")),
        ("select localtimestamp, current_time", ("localtimestamp", "current_time")),
        ("select random(), rand(), uuid()", ("rand", "uuid")),
        ("select * from (select shuffle(a) from t)", ("shuffle",)),
        ("select * from t tablesample bernoulli (10)", ("tablesample",)),
        ("with x as (select now() n) select * from x", ("current_timestamp",)),
    ],
)
def test_a_query_knows_whether_its_answer_changes(sql: str, volatile: tuple[str, ...]) -> None:
    assert parse(sql).volatile == volatile


TEXT = Parameter(type=ParameterType.TEXT, value="it's :n; drop table x --")


@pytest.mark.parametrize(
    ("parameter", "sql"),
    [
        (TEXT, "'it''s :n; drop table x --'"),
        (Parameter(type=ParameterType.WHOLE, value=-(2**63)), f"CAST('{-(2**63)}' AS BIGINT)"),
        (Parameter(type=ParameterType.NUMBER, value=0.1), "CAST('0.1' AS DOUBLE)"),
        (Parameter(type=ParameterType.FLAG, value=True), "TRUE"),
        (Parameter(type=ParameterType.NULL, value=None), "NULL"),
        (Parameter(type=ParameterType.DATE, value=date(2024, 2, 29)), "CAST('2024-02-29' AS DATE)"),
        (
            Parameter(type=ParameterType.TIMESTAMP, value=datetime(2024, 1, 2, 3, 4, 5, 6)),
            "CAST('2024-01-02 03:04:05.000006' AS TIMESTAMP(6))",
        ),
        (
            Parameter(
                type=ParameterType.TIMESTAMP,
                value=datetime(2024, 1, 1, 9, tzinfo=timezone(timedelta(hours=9))),
            ),
            "CAST('2024-01-01 00:00:00.000000 UTC' AS TIMESTAMP(6) WITH TIME ZONE)",
        ),
    ],
)
def test_a_parameter_becomes_a_literal_of_its_type(parameter: Parameter, sql: str) -> None:
    statement = parse("select :n", parameters={"n": parameter})

    assert statement.tree.sql("trino") == f"SELECT {sql}"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", 1),
        ("text", "a\0b"),
        ("text", "x" * 100_001),
        ("whole", 1.5),
        ("whole", True),
        ("whole", 2**63),
        ("number", "1"),
        ("number", float("nan")),
        ("flag", 1),
        ("date", datetime(2024, 1, 1, tzinfo=UTC)),
        ("timestamp", date(2024, 1, 1)),
        ("null", 0),
    ],
)
def test_a_value_that_is_not_of_its_type_is_refused(kind: str, value: object) -> None:
    parameter = Parameter(type=ParameterType(kind), value=value)  # type: ignore[arg-type]

    with pytest.raises(InvalidError) as caught:
        literal("n", parameter)

    assert [violation.field for violation in caught.value.violations] == ["parameters.n"]


def test_parameters_are_neither_missing_nor_unused_nor_names() -> None:
    one = {"name": Parameter(type=ParameterType.WHOLE, value=1)}

    with pytest.raises(QueryError, match=r"`:nmae` has no value; did you mean `name`\?"):
        parse("select :nmae, :name", parameters=one)
    with pytest.raises(InvalidError, match=r"parameters.name: the query has no `:name`"):
        parse("select ':name' -- :name", parameters=one)
    with pytest.raises(QueryError, match="is not where a value can be"):
        parse("select * from :name", parameters=one)
    with pytest.raises(QueryError, match="is not where a value can be"):
        parse("select t.:name from t", parameters=one)


def test_a_colon_that_is_no_parameter_stays() -> None:
    one = {"b": Parameter(type=ParameterType.WHOLE, value=1)}

    statement = parse("select {'a':b}, {'a': :b}, x[2:b]", dialect=Dialect.DUCKDB, parameters=one)

    assert len(list(statement.tree.find_all(exp.Cast))) == 1


def test_the_nearest_names_are_few_and_similar() -> None:
    assert nearest("star", ["stars", "start", "id"]) == "; did you mean `start` or `stars`?"
    assert nearest("zzz", ["id", "name"]) == "; there are id, name"
    assert nearest("zzz", []) == ""


def test_no_text_of_a_caller_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for sql in ("explain select 'secret'", "show 'secret'", "grant secret to x", "select secret("):
        with pytest.raises(QueryError):
            parse(sql)

    assert "secret" not in caplog.text
