"""Rules and deduplication: which rows are accepted, and by what the others are rejected."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.datasets.conftest import Row, Workspace
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.datasets.quality import MAX_RULES, Dedupe, Rule

VALUES: list[Any] = [-1, 0, 5, 10, 11, None]
TEXTS: list[Any] = ["", "a", "abc", "가나다라", None]


def rejected(workspace: Workspace, values: list[Any], rule: Rule) -> list[Any]:
    built = workspace.table(
        [{"v": value, "n": number} for number, value in enumerate(values)], rules=(rule,)
    )
    rows = workspace.rows(built.manifest, rejects=True)
    assert {row["_rule"] for row in rows} <= {rule.name}
    assert built.report.tables[0].rejected == ({rule.name: len(rows)} if rows else {})
    return [row["v"] for row in rows]


@pytest.mark.parametrize(
    ("values", "conditions", "expected"),
    [
        (VALUES, {"minimum": 0}, [-1]),
        (VALUES, {"maximum": 10}, [11]),
        (VALUES, {"minimum": 0, "maximum": 10}, [-1, 11]),
        (VALUES, {"minimum": 0.5, "not_null": True}, [-1, 0, None]),
        (VALUES, {"allowed": (0, 5, 10)}, [-1, 11]),
        (VALUES, {"not_null": True}, [None]),
        ([math.nan, math.inf, 1.0], {"maximum": 10}, [math.nan, math.inf]),
        (TEXTS, {"pattern": "[a-z]*"}, ["가나다라"]),
        (TEXTS, {"pattern": "[a-z]"}, ["", "abc", "가나다라"]),
        (TEXTS, {"min_length": 1, "max_length": 3}, ["", "가나다라"]),
        (TEXTS, {"allowed": ("", "it's", "a")}, ["abc", "가나다라"]),
        (TEXTS, {"minimum": "a"}, [""]),
    ],
)
def test_a_column_rule_rejects(
    workspace: Workspace, values: list[Any], conditions: dict[str, Any], expected: list[Any]
) -> None:
    values_rejected = rejected(workspace, values, Rule(name="r", column="V", **conditions))

    assert str(values_rejected) == str(expected)  # NaN does not equal itself


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("v > 0", [-1, 0]), ("v is not null", [None]), ("v % 2 = 0 or v = 5", [-1, 11])],
)
def test_an_expression_rejects_what_it_is_false_for(
    workspace: Workspace, expression: str, expected: list[Any]
) -> None:
    assert rejected(workspace, VALUES, Rule(name="r", expression=expression)) == expected


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("length(v) > 4", r"length\(BIGINT\)"),
        ("v like 'x'", r"~~\(BIGINT, STRING\)"),
        ("d > 5", "type DATE and type INTEGER"),
    ],
)
def test_an_expression_that_does_not_fit_its_columns_is_a_clear_error(
    workspace: Workspace, expression: str, problem: str
) -> None:
    rule = Rule(name="r", expression=expression)
    with pytest.raises(InvalidError, match=rf"does not fit the types of its columns: {problem}; "):
        workspace.table([{"v": 10, "d": date(2020, 1, 1)}], rules=(rule,))


def test_a_row_is_rejected_by_the_first_rule_it_violates(workspace: Workspace) -> None:
    built = workspace.table(
        [{"k": None, "v": -1}, {"k": 1, "v": -1}, {"k": 2, "v": 50}, {"k": 3, "v": 5}],
        primary_key=("k",),
        rules=(
            Rule(name="low", column="v", minimum=0),
            Rule(name="odd", expression="v % 2 = 0 or v = 5"),
        ),
    )
    assert built.report.tables[0].rejected == {"low": 1, "primary_key": 1}
    assert [row["k"] for row in workspace.rows(built.manifest)] == [2, 3]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (Rule(name="", column="v", minimum=0), r"rules\[0\]\.name: must be"),
        (Rule(name="duplicate", column="v", minimum=0), r"rules\[0\]\.name: must be"),
        (Rule(name="r'; --", column="v", minimum=0), r"rules\[0\]\.name: must be"),
        (Rule(name="r"), r"rules\[0\]: needs either an expression or a column"),
        (Rule(name="r", column="v", expression="v > 0"), r"rules\[0\]: needs either"),
        (Rule(name="r", column="v"), r"rules\[0\]: has no condition"),
        (Rule(name="r", column="w", minimum=0), r"rules\[0\]\.column: there is no column `w`"),
        (Rule(name="r", column="v", minimum=math.nan), r"rules\[0\]\.minimum: is not a finite"),
        (Rule(name="r", column="v", minimum="x"), r"rules\[0\]: has a value that does not fit"),
        (Rule(name="r", column="v", pattern="("), r"rules\[0\]: "),
        (Rule(name="r", column="v", min_length=-1), r"rules\[0\]\.min_length: is -1"),
        (Rule(name="r", expression="v + 1"), r"rules\[0\]: is BIGINT, must be true or false"),
        (Rule(name="r", expression="v like 5"), r"rules\[0\]: "),
        (Rule(name="r", expression="select 1"), r"rules\[0\]\.expression: contains `Select`"),
        (Rule(name="r", column="v", allowed=tuple(range(1001))), r"allowed: has more than 1000"),
    ],
)
def test_a_malformed_rule_is_refused_before_anything_is_stored(
    workspace: Workspace, rule: Rule, problem: str
) -> None:
    with pytest.raises(InvalidError, match=problem):
        workspace.table([{"v": 1}], rules=(rule,))
    assert list(workspace.store.blobs()) == []


def test_too_many_rules_are_refused(workspace: Workspace) -> None:
    rules = tuple(Rule(name=f"r{number}", column="v", minimum=0) for number in range(MAX_RULES + 1))
    with pytest.raises(InvalidError, match="rules: are 101; at most 100"):
        workspace.table([{"v": 1}], rules=rules)


HISTORY: list[Row] = [
    {"k": "a", "t": 1, "v": 30, "n": 0},
    {"k": "b", "t": 5, "v": 10, "n": 1},
    {"k": "a", "t": 3, "v": 10, "n": 2},
    {"k": "a", "t": 3, "v": 20, "n": 3},
    {"k": "a", "t": None, "v": 30, "n": 4},
    {"k": None, "t": 1, "v": 1, "n": 5},
    {"k": None, "t": 2, "v": 1, "n": 6},
]


@pytest.mark.parametrize(
    ("dedupe", "expected"),
    [
        (Dedupe(keep="first", key=("k",)), [0, 1, 5]),
        (Dedupe(keep="newest", by="t", key=("k",)), [1, 3, 6]),
        (Dedupe(keep="best", by="t", key=("k",)), [1, 2, 6]),
        (Dedupe(keep="best", by="-v", key=("k",)), [1, 2, 5]),
        (Dedupe(keep="best", by="case when t = 1 then v end", key=("k",)), [0, 1, 5]),
        (Dedupe(keep="first", key=("k", "v")), [0, 1, 2, 3, 5]),
    ],
)
def test_one_row_of_a_key_stays(workspace: Workspace, dedupe: Dedupe, expected: list[int]) -> None:
    built = workspace.table(HISTORY, dedupe=dedupe)
    others = [row["n"] for row in HISTORY if row["n"] not in expected]

    assert [row["n"] for row in workspace.rows(built.manifest)] == expected
    assert [row["n"] for row in workspace.rows(built.manifest, rejects=True)] == others
    assert built.report.tables[0].rejected == {"duplicate": len(others)}


def test_a_row_of_low_quality_does_not_displace_a_good_one(workspace: Workspace) -> None:
    built = workspace.table(
        HISTORY[:4],
        dedupe=Dedupe(keep="newest", by="t", key=("k",)),
        rules=(Rule(name="cheap", column="v", minimum=15),),
    )
    assert [row["n"] for row in workspace.rows(built.manifest)] == [3]
    assert built.report.tables[0].rejected == {"cheap": 2, "duplicate": 1}


def test_duplicates_may_be_counted_only(workspace: Workspace) -> None:
    built = workspace.table(
        HISTORY,
        dedupe=Dedupe(keep="first", key=("k",), record=False),
        rules=(Rule(name="cheap", column="v", minimum=5),),
    )
    report = built.report.tables[0]
    assert (report.accepted_count, report.rejected, report.dropped_count) == (2, {"cheap": 2}, 3)
    assert [row["_rule"] for row in workspace.rows(built.manifest, rejects=True)] == ["cheap"] * 2


def test_the_first_row_of_a_primary_key_stays(workspace: Workspace) -> None:
    built = workspace.table([{"k": 1, "n": 0}, {"k": 1, "n": 1}], primary_key=("K",))
    assert workspace.rows(built.manifest) == [{"k": 1, "n": 0}]


@pytest.mark.parametrize(
    ("dedupe", "problem"),
    [
        (Dedupe(keep="first"), r"dedupe\.key: is empty"),
        (Dedupe(keep="first", key=("x",)), r"dedupe\.key\[0\]: there is no column `x`"),
        (Dedupe(keep="newest", key=("k",)), r"dedupe\.by: is empty"),
        (Dedupe(keep="first", by="t", key=("k",)), r"dedupe\.by: has no meaning"),
        (Dedupe(keep="best", by="max(t)", key=("k",)), r"dedupe\.by: contains `Max`"),
        (Dedupe(keep="last", key=("k",)), r"dedupe\.keep: is `last`"),  # type: ignore[arg-type]
    ],
)
def test_a_malformed_deduplication_is_refused(
    workspace: Workspace, dedupe: Dedupe, problem: str
) -> None:
    with pytest.raises(InvalidError, match=problem):
        workspace.table(HISTORY, dedupe=dedupe)


ROW = st.fixed_dictionaries(
    {
        "k": st.none() | st.integers(0, 5),
        "t": st.none() | st.integers(-3, 3),
        "v": st.integers(-5, 5),
    }
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(ROW, min_size=1, max_size=25), keep=st.sampled_from(["newest", "best"]))
def test_random_rows_are_judged_as_plain_python_does(
    workspace: Workspace, rows: list[Row], keep: Any
) -> None:
    schema_row = [{"k": 99, "t": 99, "v": 99, "n": -1}]  # gives every column a type
    rows = schema_row + [{**row, "n": number} for number, row in enumerate(rows)]
    built = workspace.table(
        rows,
        primary_key=("k",),
        dedupe=Dedupe(keep=keep, by="t"),
        rules=(Rule(name="low", column="v", minimum=0),),
    )

    best: dict[int, Row] = {}
    for row in rows:
        if row["k"] is None or row["v"] < 0:
            continue
        place = row["n"] if keep == "newest" else -row["n"]
        rank = (row["t"] is not None, row["t"] or 0, place)
        current = best.get(row["k"])
        if current is None or rank > current["rank"]:
            best[row["k"]] = {"rank": rank, "row": row}
    expected = sorted((entry["row"] for entry in best.values()), key=lambda row: row["n"])
    report = built.report.tables[0]

    assert workspace.rows(built.manifest) == expected
    assert report.read_count == len(rows)
    assert report.read_count == report.accepted_count + sum(report.rejected.values())
    rejects = workspace.rows(built.manifest, rejects=True)
    assert sorted(row["n"] for row in [*expected, *rejects]) == [row["n"] for row in rows]


def test_rows_keep_their_order_when_the_keys_do_not_fit_in_memory(workspace: Workspace) -> None:
    count = 400_000
    keys = pa.array([(number * 7919) % (count // 2) for number in range(count)])
    path = workspace.folder / "x.parquet"
    pq.write_table(pa.table({"k": keys, "n": range(count)}), path)

    built = workspace.table(
        path, dedupe=Dedupe(keep="newest", by="n", key=("k",)), memory_bytes=48 << 20
    )

    numbers = [row["n"] for row in workspace.rows(built.manifest)]
    rejects = [row["n"] for row in workspace.rows(built.manifest, rejects=True)]
    assert numbers == list(range(count // 2, count))
    assert rejects == list(range(count // 2))
