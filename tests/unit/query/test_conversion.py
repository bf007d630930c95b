"""The same query for each engine: relations in place of tables, names as the text has them."""

from __future__ import annotations

import pytest

from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.conversion import converted
from vistaflow_services.query.lineage import lineage, located
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import Dialect, Position, Statement, parse


def for_engine(
    statement: Statement, engine: Dialect, *, limit: int | None = None, offset: int = 0
) -> str:
    relations = {
        name: (name.text,) if engine is Dialect.DUCKDB else ("hive", "s", f"t{index}")
        for index, name in enumerate(statement.tables)
    }
    return converted(statement, engine, relations, limit=limit, offset=offset)


@pytest.mark.parametrize(
    ("sql", "duckdb"),
    [
        ("select stars from reviews", 'SELECT stars FROM "reviews" AS reviews'),
        ("select reviews.stars from reviews@3", 'SELECT reviews.stars FROM "reviews@3" AS reviews'),
        (
            "select reviews@3.stars, \"reviews@3\".id from reviews@3",
            'SELECT reviews.stars, reviews.id FROM "reviews@3" AS reviews',
        ),
        (
            "select lake.main.reviews.stars from a.lake.main.reviews",
            'SELECT reviews.stars FROM "a.lake.main.reviews" AS reviews',
        ),
        (
            "select main.reviews.stars, main.other.x from lake.main.reviews, main.other",
            'SELECT reviews.stars, other.x FROM "lake.main.reviews" AS reviews, '
            '"main.other" AS other',
        ),
        ("select r.place.city from reviews r", 'SELECT r.place.city FROM "reviews" AS r'),
        ('select "별점" from 리뷰', 'SELECT "별점" FROM "리뷰" AS "리뷰"'),
        (
            "with reviews as (select 1 x) select reviews.x from reviews",
            "WITH reviews AS (SELECT 1 AS x) SELECT reviews.x FROM reviews",
        ),
        ("select 1, x, count(*) c, upper(x) from t", 'SELECT 1 AS _col0, x, COUNT(*) AS c, '
         'UPPER(x) AS _col3 FROM "t" AS t'),
        ("select 1 -- a comment", "SELECT 1 AS _col0"),
    ],
)  # fmt: skip
def test_tables_are_replaced_and_names_still_resolve(sql: str, duckdb: str) -> None:
    flat = for_engine(parse(sql), Dialect.DUCKDB).replace(" CROSS JOIN ", ", ")

    assert flat == duckdb


def test_trino_gets_catalog_schema_and_table() -> None:
    statement = parse("select reviews.stars from reviews@3 offset 2 limit 5")

    assert for_engine(statement, Dialect.TRINO, limit=5, offset=2) == (
        'SELECT reviews.stars FROM "hive"."s"."t0" AS reviews OFFSET 2 LIMIT 6'
    )


def test_limits_stay_with_the_order_that_they_cut() -> None:
    statement = parse("select id from t order by id desc limit 5")
    union = parse("select 1 a union all select 2 order by a")

    assert for_engine(statement, Dialect.DUCKDB, limit=5).endswith("ORDER BY id DESC LIMIT 6")
    assert for_engine(union, Dialect.DUCKDB, limit=1).endswith("ORDER BY a LIMIT 2")


def test_conversion_leaves_the_statement_as_it_was() -> None:
    statement = parse("select date_trunc('day', ts) from reviews@3")
    before = statement.tree.sql("trino")

    for_engine(statement, Dialect.DUCKDB, limit=3)

    assert statement.tree.sql("trino") == before


def test_what_an_engine_lacks_is_an_error() -> None:
    with pytest.raises(QueryError, match="duckdb has no equivalent: SOUNDEX"):
        for_engine(parse("select soundex(x) from t"), Dialect.DUCKDB)


def test_a_query_of_duckdb_is_converted_for_trino() -> None:
    statement = parse("select x::int, 7/2, list(x) from t group by all", dialect=Dialect.DUCKDB)

    sql = for_engine(statement, Dialect.TRINO)

    assert "CAST(x AS INTEGER), CAST(7 AS DOUBLE) / 2, ARRAY_AGG(x)" in sql


def columns(*names: str) -> list[Column]:
    return [Column(name=name, type="VARCHAR") for name in names]


def test_lineage_goes_through_with_joins_and_stars() -> None:
    statement = parse(
        "with c as (select ID, 별점 s from reviews@3) "
        "select c.ID, sum(u.price * c.s) as amount, u.*, count(*) n, 1 as one "
        "from c join users u on u.id = c.id group by 1"
    )
    reviews, users = statement.tables

    traced = lineage(statement, {reviews: columns("id", "별점"), users: columns("id", "price")})

    assert {name: [(t.text, c) for t, c in origin] for name, origin in traced.items()} == {
        "id": [("reviews@3", "id")],
        "amount": [("reviews@3", "별점"), ("users", "price")],
        "price": [("users", "price")],
    }


def test_lineage_of_a_union_has_both_sides() -> None:
    statement = parse("select a from x union all select b from y")
    x, y = statement.tables

    assert lineage(statement, {x: columns("a"), y: columns("b")}) == {"a": ((x, "a"), (y, "b"))}


def test_lineage_of_what_cannot_be_traced_is_absent() -> None:
    assert lineage(parse("select 1 as a, now() b"), {}) == {}


@pytest.mark.parametrize(
    ("sql", "message", "word", "position", "end"),
    [
        ("select\n r.star from t r", 'Table "r" does not have a column named "star"', "", (2, 4),
         "; did you mean `stars`?"),
        ("select nope from t", "Column 'nope' cannot be resolved", "", (1, 8), "id, stars"),
        ("select floo(id) from t", 'Scalar Function with name floo does not exist!\n'
         'Did you mean "floor"?', "", (1, 8), "; did you mean `floor`?"),
        ("select date_trunc('day', id) from t", "Macro trino_date_trunc() does not support the "
         "supplied arguments.", "", (1, 8), "the supplied arguments"),
        ("select x.id from t", 'Referenced table "x" not found!', "", (1, 8), "; there are t"),
        ("select\ncast(id as date) from t", "Could not convert", "CAST", (2, 1), ""),
        ("select cast(id as date), cast(id as int) from t", "Could not convert", "CAST", None, ""),
    ],
)  # fmt: skip
def test_an_error_of_an_engine_is_placed_in_the_text(
    sql: str, message: str, word: str, position: tuple[int, int] | None, end: str
) -> None:
    statement = parse(sql)

    error = located(
        QueryError(message, word=word), statement, {statement.tables[0]: columns("id", "stars")}
    )

    place = Position(line=position[0], column=position[1]) if position else None
    assert error.position == place
    assert error.problem.endswith(end)
