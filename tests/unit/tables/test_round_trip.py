"""Random nested JSON to tables and back: path, text, order and parent of every leaf come back."""

from __future__ import annotations

import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.tables.conftest import Output
from vistaflow_services.tables.conversion import Conversion, EngineName
from vistaflow_services.tables.engines.choice import Choice, has_text_engine
from vistaflow_services.tables.engines.columns import Columns, UnknownError
from vistaflow_services.tables.engines.python import PythonEngine
from vistaflow_services.tables.pieces import Pieces
from vistaflow_services.tables.run import convert
from vistaflow_services.tables.shape import Shape
from vistaflow_services.tables.sources import PlainStream, Source

Leaf = tuple[Any, ...]

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
KEYS = st.sampled_from(["a", "b", "c", "a.b", "_row", "\\", "한", "A"]) | TEXTS
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from(["=1", "'=1", "[1]", "{}", "[", "00", "-0", "1.10"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.lists(st.dictionaries(KEYS, VALUES, max_size=5), min_size=1, max_size=6)

PLAIN_KEYS = st.sampled_from(["a", "b", "_row", "_key", "한", "A", "a b", "1", "-", "NULL"])
SHAPES = st.recursive(
    st.just("leaf"),
    lambda inner: (
        st.dictionaries(PLAIN_KEYS, inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=1)
    ),
    max_leaves=6,
)


def values_of(shape: Any) -> st.SearchStrategy[Any]:
    """Values of a shape: a leaf, a list of values of one shape, or an object."""
    if isinstance(shape, dict):
        fields = {key: values_of(inner) for key, inner in shape.items()}
        return st.none() | st.fixed_dictionaries({}, optional=fields)
    if isinstance(shape, list):
        return st.none() | st.lists(values_of(shape[0]), max_size=3)
    return SCALARS


SHAPED = st.dictionaries(PLAIN_KEYS, SHAPES, min_size=1, max_size=4).flatmap(
    lambda shape: st.lists(
        st.fixed_dictionaries({}, optional={key: values_of(shape[key]) for key in shape}),
        min_size=1,
        max_size=6,
    )
)
ENGINES = [
    pytest.param(EngineName.PYTHON, id="python"),
    pytest.param(EngineName.DUCKDB, id="duckdb"),
    pytest.param(
        EngineName.TEXT,
        id="text",
        marks=pytest.mark.skipif(
            not has_text_engine(), reason="chDB is not installed: pip install vistaflow[chdb]"
        ),
    ),
]


def leaves_in(value: Any, path: Leaf = ()) -> list[tuple[Leaf, str]]:
    """Path and text of every leaf as the conventions say: null and what is empty are missing."""
    if value is None or value in ({}, []):
        return []
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves_in(item, (*path, key))]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [
            leaf
            for number, item in enumerate(value, 1)
            for leaf in (
                [((*path, number), compact(item))]
                if isinstance(item, list) and item
                else leaves_in(item, (*path, number))
            )
        ]
    if isinstance(value, list):
        return [(path, compact(value))]
    if isinstance(value, str):
        return [(path, value)]
    return [(path, json.dumps(value))]


def compact(value: list[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def steps_of(name: str) -> Leaf:
    """The keys of a column's name."""
    if name == "_value":
        return ()
    steps = re.findall(r"((?:[^.\\]|\\.)+)(?:\.|$)", name, flags=re.DOTALL)
    return tuple(
        "" if step == "\\e" else re.sub(r"\\(.)", r"\1", step, flags=re.DOTALL) for step in steps
    )


def leaves_out(output: Output) -> list[tuple[int, Leaf, str]]:
    """Record, path and text of every cell; a row finds its path by its parent."""
    places: dict[tuple[str, str], tuple[int, Leaf]] = {}
    found = []
    tables = [table["table"] for table in output.manifest["tables"]]
    kinds = {table["table"]: table["kind"] for table in output.manifest["tables"]}
    for path in sorted(tables, key=len):
        header = output.header(path)
        for row in output.table(path):
            if kinds[path] == "records":
                record, place = int(row["_row"] or 0), ()
            else:
                parent = max(
                    (
                        other
                        for other in tables
                        if (other, str(row["_parent"])) in places
                        and other != path
                        and is_above(other, path)
                    ),
                    key=len,
                )
                record, above = places[parent, str(row["_parent"])]
                below = path[len(parent) :].removeprefix(".") if parent else path
                place = (*above, *steps_of(below), int(row["_index"] or 0))
            places[path, str(row["_row"])] = (record, place)
            for name in header:
                if name not in ("_row", "_parent", "_index", "_key") and row[name] is not None:
                    found.append((record, (*place, *steps_of(name)), unguarded(row[name] or "")))
    return found


def is_above(parent: str, child: str) -> bool:
    return not parent or child.startswith(parent + ".")


def unguarded(text: str) -> str:
    return text[1:] if re.match(r"'+[=+\-@\t\r]", text) else text


@pytest.fixture(params=ENGINES, scope="module")
def choice(request: pytest.FixtureRequest, choices: dict[EngineName, Choice]) -> Choice:
    return choices.setdefault(request.param, Choice(request.param))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=RECORDS, first=RECORDS)
@example(records=[{"a": [{"b": 1.5}, "x", None]}], first=[{"a": [{"b": 2}]}])
def test_every_leaf_comes_back(
    choice: Choice, records: list[dict[str, Any]], first: list[dict[str, Any]]
) -> None:
    check(choice, first, records)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=SHAPED)
@example(records=[{"a": [None, "["]}])
@example(records=[{"a": 'x"[', "b": [1, 2]}])
@example(records=[{"[a": 1, "b": [1, 2]}, {"b": []}])
@example(records=[{"a": "[1, 2]"}, {"a": '[ "[" ]'}])
@example(records=[{"a": "[1, 2]", "b": [1, 2]}])
@example(records=[{"a": '{"b": 1}', "c": ["{"], "d": '"{'}])
def test_every_leaf_of_a_known_shape_comes_back(
    choice: Choice, records: list[dict[str, Any]]
) -> None:
    """What Python learns the shape from comes again, for the fast engine."""
    check(choice, records, records)


def test_records_of_a_known_shape_are_for_the_fast_engine(choice: Choice) -> None:
    records = [{"a": 1, "b": {"c": ["x"]}, "d": [{"e": None}, {"e": "y"}]}]
    check(choice, records, records)
    assert sum(choice.records.values()) == 2
    assert len(choice.records) == (2 if choice._engines else 1)


@settings(max_examples=100, deadline=None)
@given(records=SHAPED)
def test_columns_taken_at_once_are_those_taken_one_by_one(records: list[dict[str, Any]]) -> None:
    shape = Shape(frozenset())
    content = b"\n".join(json.dumps(record).encode() for record in records)
    stream = PlainStream(Source(name="x", open=lambda: io.BytesIO(content)))
    piece = Pieces(stream, start=0, in_array=False, first_record=1).next(1 << 20, 0)
    assert piece is not None
    expected = {rows.table.path: rows.columns for rows in PythonEngine().convert(piece, shape)}
    state = shape.state

    try:
        every, _ = Columns(shape).rows(bytes(piece.body), 1)
    except UnknownError:
        return
    assert {rows.table.path: rows.columns for rows in every} == expected
    assert shape.state == state


def test_objects_with_other_kinds_of_values_are_taken_one_by_one() -> None:
    shape = Shape(frozenset())
    known = [{"a": 1, "b": {"c": ["x"]}, "d": [{"e": None}, {"e": "y"}]}]
    content = json.dumps(known).encode()
    stream = PlainStream(Source(name="x", open=lambda: io.BytesIO(content)))
    piece = Pieces(stream, start=0, in_array=False, first_record=1).next(1 << 20, 0)
    assert piece is not None
    PythonEngine().convert(piece, shape)

    _, keys = Columns(shape).rows(content, 1)
    assert keys == 6
    for new in (
        {"a": {}},
        {"z": 1},
        {"d": [1]},
        {"d": [None]},
        {"b": [{}]},
        {"b": "x"},
        {"d": "x"},
        {"a": float("nan")},
    ):
        with pytest.raises(UnknownError):
            Columns(shape).rows(json.dumps([*known, new]).encode(), 1)
    for text in (
        b'[{"a":-0}]',
        b'[{"a":1' + b"0" * 5_000 + b"}]",
        b'[{"a":"\xff"}]',
        b'[{"a":"\\ud800"}]',
        b"[null]",
        b"[{}",
    ):
        with pytest.raises(UnknownError):
            Columns(shape).rows(text, 1)
    assert Columns(shape).rows(b'[{"a":1.10},{"a":1e400,"b":null}]', 1)[1] == 3


def check(choice: Choice, first: list[dict[str, Any]], records: list[dict[str, Any]]) -> None:
    """Converts two files into one sequence of parts, and compares every leaf."""
    contents = [
        b"\n".join(json.dumps(record, ensure_ascii=False).encode() for record in part)
        for part in (first, records)
    ]
    sources = [
        Source(name="x", open=lambda content=content: io.BytesIO(content), size=len(content))  # type: ignore[misc]
        for content in contents
    ]
    expected = [
        (number, path, text)
        for number, record in enumerate([*first, *records], 1)
        for path, text in leaves_in(record)
    ]

    with tempfile.TemporaryDirectory() as folder:
        options = Conversion(output_file_name="out", max_csv_rows=3)
        converted = convert(sources, options, output=Path(folder), choice=choice)
        output = Output(Path(folder), converted)

        assert sorted(leaves_out(output), key=repr) == sorted(expected, key=repr)
        assert [row["_row"] for row in output.table()] == [
            str(number) for number in range(1, len(first) + len(records) + 1)
        ]
