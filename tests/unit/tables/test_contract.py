"""One contract for all engines: each converts a piece exactly, or leaves it to another one.

Each case has records that the shape is learned from, and a second input that the engine gets.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.json_tables import Customers
from tests.unit.tables.conftest import Convert, source
from tests.unit.tables.test_conversion import KEY, encrypted
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.tables.conversion import Conversion, EngineName, Hooks, Progress
from vistaflow_services.tables.engines import text_child
from vistaflow_services.tables.engines.choice import Choice, has_text_engine
from vistaflow_services.tables.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.tables.engines.python import PythonEngine
from vistaflow_services.tables.engines.text import TextEngine
from vistaflow_services.tables.run import convert

SEED = b"""
{"id":1,"v":"x","o":{"a":"1","b":2},"l":[{"q":1,"r":"s"}],"t":["a"]}
{"id":2,"v":"y","o":{"a":"2","b":3},"l":[{"q":1,"r":"s"},{"q":2,"r":null}],"t":["b","c"]}
"""

NEEDS_CHDB = pytest.mark.skipif(
    not has_text_engine(), reason="chDB is not installed: pip install vistaflow[chdb]"
)
FAST = (
    pytest.param(EngineName.DUCKDB, id="duckdb"),
    pytest.param(EngineName.TEXT, id="text", marks=NEEDS_CHDB),
)
ALL = (pytest.param(EngineName.PYTHON, id="python"), *FAST)

EXACT: dict[str, tuple[bytes, dict[str, Any]]] = {
    "more-of-the-same": (b'{"id":3,"v":"z","o":{"a":"","b":4},"l":[{"q":3,"r":"t"}],"t":[]}', {}),
    "unknown-field": (b'{"id":3,"new":1}\n{"id":4,"new":2}', {}),
    "unknown-nested-field": (b'{"id":3,"o":{"a":"1","c":{"d":[1]}},"l":[{"s":1}]}', {}),
    "unknown-field-that-is-null": (b'{"id":3,"new":null,"o":{"z":null}}\n{"id":4,"new":5}', {}),
    "2-to-the-63": (b'{"id":9223372036854775808,"o":{"b":-9223372036854775809}}', {}),
    "2-to-the-64": (b'{"id":18446744073709551616}', {}),
    "thirty-digits": (b'{"id":123456789012345678901234567890}', {}),
    "5000-digits": (b'{"id":' + b"7" * 5000 + b"}", {}),
    "1e400": (b'{"id":1e400,"v":-1E-400}', {}),
    "1.10": (b'{"id":1.10,"v":10.00,"o":{"b":1.0}}', {}),
    "too-precise": (b'{"id":0.1234567890123456789,"v":9007199254740993.5}', {}),
    "many-digits": (b'{"id":12345678901234567.5,"v":-391261369078334011.25}', {}),
    "small": (b'{"id":0.0001,"v":0.00001,"o":{"b":0.000012}}', {}),
    "minus-zero": (b'{"id":-0.0,"v":-0,"o":{"b":-0}}', {}),
    "exponents": (b'{"id":1e5,"v":1E+5,"o":{"b":1.5e-7}}', {}),
    "exponents-in-arrays": (b'{"id":1,"t":[1e+16]}\n{"id":2,"t":[0.5,1.5e-07]}', {}),
    "numbers-in-arrays": (b'{"id":1,"t":[1.10,-0,1e5,18446744073709551616]}', {}),
    "leading-zeros": (b'{"id":"00123","v":"+5"}', {}),
    "time-zones": (b'{"id":1,"v":"2024-03-11T03:57:09+09:00","o":{"a":"2024-03-11"}}', {}),
    "booleans": (b'{"id":true,"v":false}', {}),
    "empty-and-null": (b'{"id":"","v":null,"o":{"a":"","b":null}}', {}),
    "number-to-string": (b'{"id":"drift"}\n{"id":5}', {}),
    "value-to-object": (b'{"id":{"x":1}}\n{"id":5}', {}),
    "value-to-array": (b'{"id":[1,2]}\n{"id":5}', {}),
    "value-to-array-of-objects": (b'{"id":[{"x":1}]}\n{"id":5}', {}),
    "value-to-boolean": (b'{"id":true}\n{"id":5}', {}),
    "object-to-value": (b'{"o":5}\n{"o":{"a":1}}', {}),
    "object-to-array": (b'{"o":[1]}\n{"o":[{"a":1}]}', {}),
    "array-to-value": (b'{"l":5}\n{"l":"[]"}', {}),
    "array-to-object": (b'{"l":{"q":1}}', {}),
    "array-of-objects-to-values": (b'{"l":[1,2]}\n{"l":[{"q":1},3,null,[4]]}', {}),
    "array-with-null": (b'{"l":[null]}\n{"l":[null,{"q":1}]}\n{"t":[null]}', {}),
    "empty-objects": (b'{"o":{},"l":[{}],"t":[]}\n{}', {}),
    "empty-object-in-array-of-values": (b'{"t":[{}]}', {}),
    "array-of-values-to-objects": (b'{"t":[{"w":1}]}', {}),
    "nested-arrays": (b'{"t":[[1,[2]],[]]}\n{"t":[[{"w":1}]]}', {}),
    "arrays-with-spaces": (b'{"t":[ "a" , 1.50,\t{} ]}\n{"t":[ "a\\u00e9" , 1 ]}', {}),
    "texts-that-begin-with-brackets": (b'{"v":"[Bundle] x","o":{"a":"{x}"},"t":["y"]}', {}),
    "texts-that-are-arrays": (b'{"v":"[1, 2]","t":[3, 4]}\n{"v":"[\\"a\\"]"}', {}),
    "texts-that-are-objects": (b'{"v":"{\\"a\\": 1}"}', {}),
    "texts-that-look-like-numbers": (b'{"v":" 1.10 ","o":{"a":"v 2.50, 1e5"}}', {}),
    "texts-that-look-like-keys": (b'{"v":":)","o":{"a":"x\\":null"},"t":[":","\\" :"]}', {}),
    "spaced": (b'{ "id" : 1 ,\n "v" : "x" , "o" : { "a" : null } }', {}),
    "escapes": (b'{"\\u0069d":"\\u00e9\\n\\t\\"\\\\\\/","v":"\\ud83c\\udf7a"}', {}),
    "case": (b'{"ID":1,"id":2,"o":{"A":1}}', {}),
    "strange-names": (
        b'{"a.b":1,"_row":2,"q\\"x":3,"c\'d":4,"e`f":5,"":6,"g\\\\h":7,"\xed\x95\x9c":8,"o":{"i.j":9}}'
        b'\n{"a.b":1,"_row":2,"q\\"x":3,"c\'d":4,"e`f":5,"":6,"g\\\\h":7,"\xed\x95\x9c":8}',
        {},
    ),
    "formulas": (b'{"v":"=1+1","o":{"a":"\'=1"}}\n{"v":-5,"o":{"a":"-5+x"}}\n{"v":"\'x"}', {}),
    "map": (
        b'{"m":{"k1":{"x":1},"k2":null,"k3":{}}}\n{"m":{"k1":{"x":2,"y":[{"z":1}]}}}',
        {"map_paths": ("m",)},
    ),
    "map-of-values": (b'{"m":{"k1":1,"k2":null,"k3":"x"}}\n{"m":{}}', {"map_paths": ("m",)}),
    "map-with-100-levels": (b'{"id":' + b'{"x":' * 98 + b"1" + b"}" * 98 + b"}", {}),
    "array-with-100-levels": (b'{"t":' + b"[" * 99 + b"1" + b"]" * 99 + b"}", {}),
}

REFUSED: dict[str, tuple[bytes, str, str]] = {
    "duplicate-key": (b'{"id":1}\n{"id":1,"id":2}', "DUPLICATE_KEY", "record 4 at byte 9:"),
    "duplicate-nested-key": (b'{"o":{"a":1,"a":1}}', "DUPLICATE_KEY", "record 3 at byte 0:"),
    "duplicate-key-in-array": (b'{"l":[{"q":1,"q":null}]}', "DUPLICATE_KEY", "record 3 "),
    "duplicate-escaped-key": (b'{"id":1,"\\u0069d":2}', "DUPLICATE_KEY", "record 3 "),
    "NaN": (b'{"id":NaN}', "BROKEN_JSON", "record 3, byte 6:"),
    "Infinity": (b'{"id":-Infinity}', "BROKEN_JSON", "record 3, byte 7:"),
    "lone-high-surrogate": (b'{"id":"\\ud800 and more"}', "BROKEN_JSON", "record 3, byte"),
    "lone-low-surrogate": (b'{"id":"\\udc00 and more"}', "BROKEN_JSON", "record 3, byte"),
    "invalid-utf-8": (b'{"id":1}\n{"v":"\xff"}', "BAD_ENCODING", "byte 15: invalid UTF-8"),
    "nul": (b'{"id":1}\n{"v":"a\\u0000"}', "BAD_TEXT", "record 4 at byte 9:"),
    "raw-nul": (b'{"v":"a\0"}', "BROKEN_JSON", "record 3, byte"),
    "101-objects": (b'{"id":' + b'{"x":' * 100 + b"1" + b"}" * 101, "TOO_DEEP", "record 3 "),
    "101-arrays": (b'{"t":' + b"[" * 100 + b"1" + b"]" * 100 + b"}", "TOO_DEEP", "record 3 "),
    "9000-arrays": (b'{"t":' + b"[" * 9000 + b"1" + b"]" * 9000 + b"}", "TOO_DEEP", ""),
    "missing-comma": (b'{"id":1 "v":2}', "BROKEN_JSON", "record 3, byte"),
    "trailing-comma": (b'{"id":1,}', "BROKEN_JSON", "record 3, byte 8:"),
    "leading-zero": (b'{"id":01}', "BROKEN_JSON", "record 3, byte"),
    "truncated": (b'{"id":1}\n{"id":', "BROKEN_JSON", "record 4, byte"),
    "open-array": (b'[{"id":1},{"id":2}', "BROKEN_JSON", "its array is not closed"),
    "number": (b"[5]", "BROKEN_JSON", "byte 1:"),
    "number-behind-objects": (b'[{"id":1},5]', "NOT_AN_OBJECT", "record 4 "),
}


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(("content", "options"), EXACT.values(), ids=EXACT.keys())
def test_every_engine_gives_the_same_files(
    convert_bytes: Convert, engine: EngineName, content: bytes, options: dict[str, Any]
) -> None:
    expected = convert_bytes(SEED, content, **options)

    output = convert_bytes(SEED, content, engine=engine, **options)

    assert contents(output.files) == contents(expected.files)


@pytest.mark.parametrize("engine", ALL)
@pytest.mark.parametrize(("content", "reason", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_every_engine_refuses_the_same_input(
    convert_bytes: Convert, engine: EngineName, content: bytes, reason: str, words: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        convert_bytes(SEED, content, engine=engine)

    assert refused.value.reason == reason
    assert refused.value.message.startswith("input2.json: ") or reason == "TOO_DEEP"
    assert words in refused.value.message


TABLES = {
    "": "",
    "orders": "shopping.orders",
    "items": "shopping.orders.items",
    "accounts": "finance.accounts",
    "transactions": "finance.accounts.transactions",
}


@pytest.mark.parametrize("engine", ALL)
@pytest.mark.parametrize("layout", ["array", "ndjson", "concatenated", "encrypted"])
def test_there_are_as_many_rows_as_were_generated(
    convert_bytes: Convert, monkeypatch: pytest.MonkeyPatch, engine: EngineName, layout: str
) -> None:
    monkeypatch.setattr("vistaflow_services.tables.engines.choice.FIRST_BYTES", 1 << 16)
    customers = Customers(seed=11)
    records = [customers.record(number) for number in range(200)]
    content = json.dumps(records, ensure_ascii=False).encode()
    if layout in ("ndjson", "concatenated"):
        separator = "\n" if layout == "ndjson" else ""
        content = separator.join(map(json.dumps, records)).encode()

    output = convert_bytes(
        encrypted(content) if layout == "encrypted" else content,
        engine=engine,
        aes=KEY if layout == "encrypted" else None,
        max_csv_rows=150,
    )

    assert {path: len(output.table(path)) for path in TABLES.values()} == {
        TABLES[name]: count for name, count in customers.counts.items()
    }
    assert output.converted.engines[engine] > 100


@pytest.mark.parametrize("engine", FAST)
def test_a_fast_engine_converts_what_it_knows(convert_bytes: Convert, engine: EngineName) -> None:
    more = b"\n".join(b'{"id":%d,"v":"\xea\xb0\x80","l":[{"q":1.5}]}' % n for n in range(500))

    output = convert_bytes(SEED, more, engine=engine)

    assert output.converted.engines == {EngineName.PYTHON: 2, engine: 500}


@pytest.mark.parametrize("name", ["1.10", "minus-zero", "1e400", "2-to-the-64", "time-zones"])
@NEEDS_CHDB
def test_the_text_engine_converts_all_numbers_itself(convert_bytes: Convert, name: str) -> None:
    output = convert_bytes(SEED, EXACT[name][0], engine=EngineName.TEXT)

    assert output.converted.engines[EngineName.TEXT] == 1


@pytest.mark.parametrize(
    "name", ["1.10", "minus-zero", "small", "exponents", "too-precise", "many-digits"]
)
def test_duckdb_leaves_numbers_that_it_changes_to_python(convert_bytes: Convert, name: str) -> None:
    output = convert_bytes(SEED, EXACT[name][0], engine=EngineName.DUCKDB)

    assert output.converted.engines == {EngineName.PYTHON: 3}


@pytest.mark.parametrize("engine", ALL)
def test_values_come_out_as_they_went_in(convert_bytes: Convert, engine: EngineName) -> None:
    texts = [
        "9223372036854775808", "18446744073709551616", "1e400", "1.10", "-0.0", "-0", "1E5", "true",
        '"00123"', '"2024-03-11T03:57:09+09:00"', '""', "null", '"줄\\n바꿈"',
    ]  # fmt: skip
    records = b"\n".join(f'{{"v":{text}}}'.encode() for text in texts)

    output = convert_bytes(b'{"v":"seed"}', records, engine=engine)

    assert [row["v"] for row in output.table()][1:] == [
        None if text == "null" else json.loads(text) if text.startswith('"') else text
        for text in texts
    ]


@pytest.mark.parametrize("engine", FAST)
def test_pieces_converted_at_once_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineName
) -> None:
    # Each piece of 2 KiB has some records; new columns and numbers for Python come in between.
    records = [
        {"id": number, "l": [{"n": index} for index in range(number % 4)]}
        | ({f"new{number // 100}": 1} if number % 100 == 50 else {})
        | ({"id": 1e300} if number % 170 == 0 else {})
        for number in range(600)
    ]
    content = json.dumps(records).encode()
    for maker in (DuckDbEngine, TextEngine, PythonEngine):
        monkeypatch.setattr(maker, "piece_bytes", 2048)
    options = Conversion(output_file_name="out", max_csv_rows=100)

    for name, choice in (
        ("one", Choice(EngineName.PYTHON)),
        ("many", Choice(engine, workers=3)),
    ):
        with contextlib.closing(choice):
            convert([source(content)], options, output=tmp_path / name, choice=choice)
            converted = dict(choice.records)

    assert converted[engine] > 100
    assert {path.name: path.read_bytes() for path in (tmp_path / "many").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()
    }


@NEEDS_CHDB
def test_a_crash_of_chdb_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps([{"id": number, "text": "x" * 50} for number in range(300)]).encode()
    monkeypatch.setattr(TextEngine, "piece_bytes", 4096)
    monkeypatch.setattr(PythonEngine, "piece_bytes", 4096)
    children: list[int] = []

    def kill_once(progress: Progress) -> None:
        running = text_processes()
        if running and not children:
            children.extend(running)
            os.kill(running[-1], signal.SIGKILL)

    converted = convert(
        [source(content)],
        Conversion(output_file_name="out", engine=EngineName.TEXT),
        output=tmp_path / "out",
        hooks=Hooks(progress=kill_once),
    )

    assert children
    assert converted.records == 300
    assert sum(part.rows for part in converted.parts) == 300


@NEEDS_CHDB
def test_a_process_of_chdb_that_ended_before_a_conversion_is_replaced(tmp_path: Path) -> None:
    content = b'{"a": 1}\n{"a": 2}'
    choice = Choice(EngineName.TEXT)
    with contextlib.closing(choice):
        for number in range(3):
            converted = convert(
                [source(content), source(content)],
                Conversion(output_file_name="out", engine=EngineName.TEXT),
                output=tmp_path / str(number),
                choice=choice,
            )
            assert converted.records == 4
            (engine,) = choice._engines
            assert isinstance(engine, TextEngine)
            if number == 0:
                os.kill(text_processes()[-1], signal.SIGKILL)
    assert choice.records[EngineName.TEXT] == 2


@NEEDS_CHDB
def test_chdb_starts_with_its_extension_alone() -> None:
    (folder,) = importlib.util.find_spec("chdb").submodule_search_locations  # type: ignore[union-attr,misc]
    code = "print(load(sys.argv[1]).__name__, 'chdb' in sys.modules, 'numpy' in sys.modules)"

    assert in_process_of_chdb(code, folder) == "_chdb False False"


def test_a_chdb_without_its_extension_starts_as_a_package(tmp_path: Path) -> None:
    folder = tmp_path / "chdb"
    folder.mkdir()
    (folder / "__init__.py").touch()

    assert in_process_of_chdb("print(load(sys.argv[1]).__file__)", str(folder)) == str(
        folder / "__init__.py"
    )


def in_process_of_chdb(code: str, folder: str) -> str:
    """What a program prints that has all names of the process of chDB."""
    program = (
        f"import runpy, sys; globals().update(runpy.run_path({text_child.__file__!r})); {code}"
    )
    command = [sys.executable, "-I", "-S", "-c", program, folder]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def text_processes() -> list[int]:
    """The processes of chDB, the newest last: other tests have some, too."""
    command = ["pgrep", "-P", str(os.getpid()), "-f", "text_child"]
    return [
        int(each) for each in subprocess.run(command, capture_output=True, text=True).stdout.split()
    ]


def contents(files: dict[str, bytes]) -> dict[str, Any]:
    """Files as values that compare well; the options in the manifest name the engine."""
    values: dict[str, Any] = {}
    for name, content in files.items():
        if name.endswith(".json"):
            manifest = json.loads(content)
            del manifest["identity"]
            values[name] = manifest
        else:
            values[name] = content.decode()
    return values
