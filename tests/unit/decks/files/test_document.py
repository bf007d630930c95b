from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.files.document import MAX_BYTES, read_document


def value(text: str) -> Any:
    return read_document(f"a: {text}\n".encode(), "deck.yaml").root["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-9", 1e-9),
        ("1E9", 1e9),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("+7", 7),
        ("013", 13),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("on", "on"),
        ("no", "no"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("'1e-9'", "1e-9"),
        ('"true"', "true"),
        ("1k", "1k"),
        ("[1, [a, b]]", [1, ["a", "b"]]),
        ("{b: {c: 2}}", {"b": {"c": 2}}),
    ],
)
def test_plain_values_are_read_as_people_mean_them(text: str, expected: Any) -> None:
    read = value(text)
    assert (read, type(read)) == (expected, type(expected))


def test_fields_are_told_with_the_line_of_the_nearest_value() -> None:
    document = read_document(b"a:\n  - b: 1\n    c:\n      - x\n\nd: 2\n", "kit.yaml")
    assert [document.field(path) for path in ("a[0].c[0]", "a[0].c[1]", "a[0].e.f", "d", "g")] == [
        "kit.yaml:4 a[0].c[0]",
        "kit.yaml:3 a[0].c[1]",
        "kit.yaml:2 a[0].e.f",
        "kit.yaml:6 d",
        "kit.yaml: g",
    ]


def test_scalars_are_kept_as_they_were_written() -> None:
    assert read_document(b"version: 1.10\n", "deck.yaml").texts == {"version": "1.10"}


BOMB = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c]\n" % (at + 1, at + 1, at, at) for at in range(ord("a"), ord("y"))
)


@pytest.mark.parametrize(
    ("content", "field", "told"),
    [
        (BOMB, "deck.yaml:1", "has an anchor (`&`); write values out where they are needed"),
        (b"a: 1\nb: *a\n", "deck.yaml:2", "has an alias (`*`); write the value out"),
        (b"a: 1\na: 2\n", "deck.yaml:2", "has `a` twice; the first is in line 1"),
        (b"a: !!int 3\n", "deck.yaml:1", "has a tag (`tag:yaml.org,2002:int`); write plain values"),
        (b"a: " + b"[" * 50_000, "deck.yaml:1", "is nested deeper than 16 levels"),
        (b"a:\n" + b"".join(b" " * at + b"a:\n" for at in range(1, 300)), "deck.yaml:18",
         "is nested deeper than 16 levels"),
        (b"[a]: 1\n", "deck.yaml:1", "has a key that is no text"),
        (b"a: 1\n---\nb: 2\n", "deck.yaml:2", "holds several documents; keep one, without `---`"),
        (b"a: 1\n\tb: 2\n", "deck.yaml:2", None),
        (b"a: 'open\n", "deck.yaml:2", None),
        (b"a: [1, 2\nb: 3\n", "deck.yaml:2", None),
        (b"a: 1\nb: \x07\n", "deck.yaml:2", "has a character that YAML does not allow"),
        (b"a: T\xfcr\n", "deck.yaml:1", "is not UTF-8; save the file as UTF-8"),
        (b"#" * (MAX_BYTES + 1), "deck.yaml", "has 131073 bytes, at most 131072 are read"),
    ],
)  # fmt: skip
def test_a_document_that_is_wrong_or_hostile_is_refused_with_the_line(
    content: bytes, field: str, told: str | None
) -> None:
    with pytest.raises(InvalidError) as error:
        read_document(content, "deck.yaml")
    (violation,) = error.value.violations
    assert violation.field == field
    assert violation.description.startswith("is not YAML: " if told is None else told)


@settings(max_examples=200, deadline=None)
@given(
    content=st.one_of(st.binary(max_size=60), st.text("ab:-[]{}&*!|>'\"#%@, \n\t1.e", max_size=60))
)
def test_any_bytes_are_either_read_or_refused(content: bytes | str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    try:
        told: object = read_document(raw, "deck.yaml").lines
    except InvalidError as error:
        told = error.violations
    assert told is not None


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert read_document(b"\xef\xbb\xbfname: x\n", "deck.yaml").root == {"name": "x"}
