"""What a caller says of an import, in Python and in a file, and what is sent for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from vistaflow.aio._data.import_specs import files_message, table_message
from vistaflow.cli.data.import_file import ImportFile
from vistaflow.errors import FieldViolation, InvalidArgumentError


def plain(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def test_a_table_is_described_in_the_words_of_people() -> None:
    table = {
        "name": "whisky",
        "primary_key": "pk",
        "references": ["a,b -> other.x,y", {"columns": "c", "table": "t", "key": ["d"]}],
        "dedupe": "newest:seen_at",
        "rules": [
            "price > 0",
            "price > 0",
            "length(name) >= 2",
            {"column": "age", "minimum": 18, "maximum": 130.5},
            {"name": "region", "column": "region", "allowed": ["korea", 1, True], "not_null": True},
        ],
        "types": {"price": "DECIMAL(18,2)"},
    }
    assert plain(table_message(table, "")) == {
        "name": "whisky",
        "primary_key": ["pk"],
        "references": [
            {"columns": ["a", "b"], "table": "other", "key": ["x", "y"]},
            {"columns": ["c"], "table": "t", "key": ["d"]},
        ],
        "dedupe": {"keep": "DEDUPE_KEEP_NEWEST", "by": "seen_at"},
        "rules": [
            {"name": "price_gt_0", "expression": "price > 0"},
            {"name": "price_gt_0_2", "expression": "price > 0"},
            {"name": "length_name_ge_2", "expression": "length(name) >= 2"},
            {
                "name": "age",
                "column": "age",
                "minimum": {"whole": "18"},
                "maximum": {"number": 130.5},
            },
            {
                "name": "region",
                "column": "region",
                "allowed": [{"text": "korea"}, {"whole": "1"}, {"flag": True}],
                "not_null": True,
            },
        ],
        "types": {"price": "DECIMAL(18,2)"},
    }


def test_rules_have_their_names_in_a_mapping() -> None:
    rules = {"positive": "price > 0", "adult": {"column": "age", "minimum": 18}}
    names = [rule.name for rule in table_message({"rules": rules}, "").rules]
    assert names == ["positive", "adult"]


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"primary_key": 3}, "t.primary_key"),
        ({"keys": ["a"]}, "t.keys"),
        ({"references": ["user_id = user.id"]}, "t.references[0]"),
        ({"references": [{"columns": ["a"], "table": "b", "keys": ["c"]}]}, "t.references[0].keys"),
        ({"rules": "price > 0"}, "t.rules"),
        ({"rules": [3]}, "t.rules[0]"),
        ({"rules": ["a", {"column": "b", "min": 3}]}, "t.rules[1].min"),
        ({"rules": {"b": {"column": "b", "min_length": "x"}}}, "t.rules.b.min_length"),
        ({"rules": [{"column": "b", "minimum": 2**64}]}, "t.rules[0].minimum.whole"),
        ({"dedupe": "latest:x"}, "t.dedupe.keep"),
        ({"dedupe": 3}, "t.dedupe"),
        ({"types": {"a": 3}}, "t.types"),
    ],
)
def test_a_mistake_is_named_by_its_place(table: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        table_message(table, "t.")
    assert [violation.field for violation in raised.value.violations] == [field]


def test_files_have_the_options_of_their_format() -> None:
    message = files_message(["a.csv"], {"format": "csv", "null_texts": ["NA"]}, "source")
    assert plain(message) == {
        "file_names": ["a.csv"],
        "format": "ROW_FORMAT_CSV",
        "null_texts": ["NA"],
    }
    with pytest.raises(InvalidArgumentError, match=r"source\.format: 'xls' is none of csv, "):
        files_message(["a.xls"], {"format": "xls"}, "source")


SPEC = """\
dataset: whisky
alias: 2024
tables:
  - name: user
    source: user.json
    rules:
      - age >= 18
      - {column: since, minimum: 2024-01-01}
  - name: far
    source: {files: [raw/far.csv, user.json], delimiter: ";"}
"""


def test_a_file_is_read_without_the_traps_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "user.json").write_text("[]")
    (tmp_path / "import.yaml").write_text(SPEC)
    assert ImportFile(tmp_path / "import.yaml").arguments == {
        "dataset": "whisky",
        "alias": 2024,
        "tables": [
            {
                "name": "user",
                "source": tmp_path / "user.json",
                "rules": ["age >= 18", {"column": "since", "minimum": "2024-01-01"}],
            },
            {
                "name": "far",
                "source": {"files": ["raw/far.csv", tmp_path / "user.json"], "delimiter": ";"},
            },
        ],
    }


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("spec.tables[0].rules[1].minimum", ":8 tables[0].rules[1].minimum"),
        ("tables[0].rules[0].expression", ":7 tables[0].rules[0].expression"),
        ("tables[1].source.files.encoding", ":10 tables[1].source.files.encoding"),
        ("elsewhere", " elsewhere"),
    ],
)
def test_a_mistake_is_reported_with_its_line(tmp_path: Path, field: str, place: str) -> None:
    path = tmp_path / "import.yaml"
    path.write_text(SPEC)
    mistake = InvalidArgumentError("x", violations=(FieldViolation(field=field, description="y"),))
    (violation,) = ImportFile(path).located(mistake).violations
    assert violation.field == f"{path}{place}"


def test_a_mistake_of_the_only_table_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "import.yaml"
    path.write_text("dataset: a\nsource: a.csv\nrules:\n  - 1 +\n")
    field = "spec.tables[0].rules[0].expression"
    mistake = InvalidArgumentError("x", violations=(FieldViolation(field=field, description="y"),))
    (violation,) = ImportFile(path).located(mistake).violations
    assert violation.field == f"{path}:4 rules[0].expression"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset: a\nsources: b\n", ":2 sources: is no key here"),
        ("dataset: a\ntables: [\n", ":3: is no YAML"),
        ("a: 1\na: 2\n", ":2: is no text, or there twice"),
        ("rules: &x [a]\ntypes: *x\n", "or an alias"),
        ("rules: " + "[" * 5000, "is no YAML"),
        ("- a\n", "has no keys"),
        ("", "has no keys"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "import.yaml"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError) as raised:
        ImportFile(path)
    assert said in str(raised.value)
