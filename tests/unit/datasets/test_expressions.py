"""The SQL that callers may write, and what they may not."""

from __future__ import annotations

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.datasets.expressions import MAX_LENGTH, MAX_NODES, safe_sql
from vistaflow_services.datasets.manifest import Column

COLUMNS = [
    Column(name="price", type="DOUBLE"),
    Column(name="Name", type="VARCHAR"),
    Column(name="day", type="DATE"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("price > 0 and name like 'a%'", """"price" > 0 AND "Name" LIKE 'a%'"""),
        ("PRICE between 1 and 2", '"price" BETWEEN 1 AND 2'),
        ('"Name" in (\'a\', \'b\')', """"Name" IN ('a', 'b')"""),
        ("length(trim(name)) >= 2", 'LENGTH(TRIM("Name")) >= 2'),
        ("day >= date '2024-01-01'", """"day" >= CAST('2024-01-01' AS DATE)"""),
        ("case when price > 1 then true else false end",
         'CASE WHEN "price" > 1 THEN TRUE ELSE FALSE END'),
        ("coalesce(price::integer, 0) % 2 = 0", 'COALESCE(CAST("price" AS INT), 0) % 2 = 0'),
        ("price > 0 -- really", '"price" > 0'),
        ("name = 'it''s; drop table x'", """"Name" = 'it''s; drop table x'"""),
    ],
)  # fmt: skip
def test_an_expression_is_rendered_from_what_was_checked(text: str, expected: str) -> None:
    assert safe_sql(text, COLUMNS, "rules[0].expression") == expected


@pytest.mark.parametrize(
    "text",
    [
        "select 1",
        "(select price)",
        "price in (select 1)",
        "exists (select 1)",
        "price > 0; drop table t",
        "drop table t",
        "copy t to '/tmp/x'",
        "attach '/tmp/x'",
        "set threads = 1",
        "pragma version",
        "install httpfs",
        "read_csv('/etc/passwd')",
        "read_text('/etc/passwd') = ''",
        "glob('/*')",
        "getenv('HOME') = ''",
        "current_setting('temp_directory') = ''",
        "query('select 1')",
        "repeat(name, 1000000000) = ''",
        "lpad(name, 1000000000, 'x') = ''",
        "range(1000000000) is null",
        "unnest([1, 2]) = 1",
        "count(*) > 0",
        "sum(price) > 0",
        "row_number() over () = 1",
        "random() > 0",
        "now() > day",
        "current_date > day",
        "nextval('s') = 1",
        "list_transform([1], x -> x)",
        "columns('.*') > 0",
        "*",
        "?",
        "$1",
        ":name",
        "price::blob is null",
        "{'a': 1}.a = 1",
        "t.price > 0",
        "filename = ''",
        "_row = 1",
        "price >",
        "price,, day",
        "'unterminated",
        "((price > 0)",
        "",
        "  ",
        "(" * 1000 + "1" + ")" * 1000,
        "price + " * MAX_NODES + "1 > 0",
        "x" * (MAX_LENGTH + 1),
    ],
)
def test_all_else_is_refused_by_a_message_that_names_the_field(text: str) -> None:
    with pytest.raises(InvalidError, match=r"^rules\[3\]\.expression: ") as caught:
        safe_sql(text, COLUMNS, "rules[3].expression")
    assert len(str(caught.value)) < 1000


def test_a_message_says_where_the_mistake_is() -> None:
    with pytest.raises(InvalidError, match="is not an expression: look at line 2, character"):
        safe_sql("price > 0 and\n and 1", COLUMNS, "filter")
    with pytest.raises(InvalidError, match="no column `cost`; columns are price, Name, day"):
        safe_sql("cost > 0", COLUMNS, "filter")


@pytest.mark.parametrize(("open_", "close"), [("array[", "]"), ("row(", ")"), ("map(", ")")])
def test_nested_names_of_types_are_refused_before_they_are_parsed(open_: str, close: str) -> None:
    with pytest.raises(InvalidError, match="nested parentheses"):
        safe_sql(open_ * 40 + "1" + close * 40, COLUMNS, "rules[0]")
