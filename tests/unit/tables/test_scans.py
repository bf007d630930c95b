"""What is looked for in the text of a piece, against simpler ways to find it, and where it is."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path

import duckdb
import pytest

from vistaflow_services.tables import brackets
from vistaflow_services.tables.engines import DeclinedError, duckdb_engine
from vistaflow_services.tables.pieces import Pieces
from vistaflow_services.tables.sources import PlainStream, Source


@pytest.fixture(params=[5, 1 << 17], ids=["small-blocks", "one-block"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (brackets, duckdb_engine):
        monkeypatch.setattr(module, "BLOCK", request.param)
    monkeypatch.setattr(brackets, "_SHORT", 0)


@pytest.mark.usefixtures("block")
def test_scans_find_what_regular_expressions_find() -> None:
    choose = random.Random(5).choices

    for _ in range(500):
        text = b'[{"' + bytes(choose(b'"[{:\\u0- ,n1', k=30)) + b'"}]'
        assert brackets.count_pairs(text, b'"', b"[{:") == [
            text.count(b'"['),
            text.count(b'"{'),
            text.count(b'":'),
        ]
        assert brackets.has_spaced_colon(text) == bool(re.search(rb'"[ \t\r\n]+:', text))
        assert brackets.has_minus_zero(text) == bool(re.search(rb"[:\[, \t\r\n]-0[^.0-9]", text))


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def test_keys_with_values_are_counted(separators: tuple[str, str]) -> None:
    choose = random.Random(5).choice
    values = (None, 1, "", "null", ":n", "x", [], [None, "n"], {"k": None}, {"n": {"a": 1}})
    records = [{name: choose(values) for name in "abcdef"} for _ in range(30)]

    def count(value: object) -> int:
        if isinstance(value, dict):
            return sum((item is not None) + count(item) for item in value.values())
        return sum(map(count, value)) if isinstance(value, list) else 0

    body = memoryview(json.dumps(records, separators=separators).encode())

    assert duckdb_engine.keys_with_values(body) == count(records)


@pytest.mark.usefixtures("block")
def test_every_number_that_duckdb_changes_is_noticed(tmp_path: Path) -> None:
    digits = random.Random(5)

    def some(most: int) -> str:
        return "".join(digits.choices("001359", k=digits.randrange(1, most)))

    texts = [
        digits.choice(("", "-"))
        + str(int(some(18)))
        + digits.choice(
            ("", f".{some(18)}", f".{some(4)}", f".{some(3)}e{some(3)}", f"E-{some(3)}")
        )
        for _ in range(3_000)
    ]
    doubles = [digits.gauss(0, 10.0 ** digits.randrange(-12, 20)) for _ in range(2_000)]
    texts += [repr(value) for value in doubles]
    texts += [f"{value:.6f}".rstrip("0") + "1" for value in doubles]
    texts += [
        f"{sign}{some(3)}e{power}" for sign in ("", "-") for power in ("-5", "-7", "-07", "+15")
    ]
    path = tmp_path / "numbers.json"
    path.write_text("\n".join(f'{{"v":{text}}}' for text in texts))
    columns = "{'v': 'VARCHAR'}"
    read = duckdb.sql(f"SELECT v FROM read_json('{path}', columns = {columns})").fetchall()

    changed, noticed = set(), set()
    for text, (value,) in zip(texts, read, strict=True):
        if text != value:
            changed.add(text)
        try:
            duckdb_engine.check_numbers(memoryview(f'[{{"k":"1.5 e","v":{text}}}]'.encode()))
        except DeclinedError:
            noticed.add(text)

    assert changed - noticed == set()
    assert len(changed) > 1_000
    assert len(set(texts) - noticed) > 500
    # All of them are as short as can be.
    assert not {repr(value) for value in doubles} & noticed


def test_the_memory_of_a_piece_is_used_again_when_it_is_gone() -> None:
    content = b",".join(b'{"number":%d}' % number for number in range(1_000))
    stream = PlainStream(Source(name="x", open=lambda: io.BytesIO(b"[" + content + b"]")))
    pieces = Pieces(stream, start=0, in_array=False, first_record=1)
    bodies, files = [], set()

    kept = pieces.next(2_000, 0)
    assert kept is not None
    text = bytes(kept.body)
    while (piece := pieces.next(2_000, 0)) is not None:
        with open(piece.file.path, "rb") as file:
            assert file.read().strip() == bytes(piece.body)
        bodies.append(bytes(piece.body))
        files.add(piece.file.descriptor)
        section = piece.section(1, 3)
        assert bytes(section.body) == b"[" + b",".join(piece.records[1:3]) + b"]"

    assert bytes(kept.body) == text
    assert b",".join(body[1:-1] for body in (text, *bodies)) == content
    assert len(bodies) > 5
    assert len(files) <= 3
    stream.close()
