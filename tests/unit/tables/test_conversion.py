"""Conversions as a whole: layouts of inputs, parts, options, limits, errors."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from tests.disks import small_disk
from tests.unit.tables.conftest import Convert
from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    ExistsError,
    InvalidError,
)
from vistaflow_services.tables import pieces, shape, sources
from vistaflow_services.tables.conversion import (
    Compression,
    Conversion,
    ConversionCanceled,
    EngineName,
    Format,
    Hooks,
    Progress,
)
from vistaflow_services.tables.journal import sole_use
from vistaflow_services.tables.run import convert
from vistaflow_services.tables.sources import Aes

RECORDS: list[dict[str, Any]] = [
    {"id": number, "name": f"가{number}", "items": [{"n": index} for index in range(number % 3)]}
    for number in range(10)
]
ARRAY = json.dumps(RECORDS).encode()
NDJSON = b"\n".join(json.dumps(record).encode() for record in RECORDS)
KEY = Aes(key="894d2fce882339606bf0788d5576843f0b9773ff6b1f8f8a5a9290cc876155a7",
          iv="624cce1ae8d045fe4f3c6869f728ead3")  # fmt: skip


def encrypted(content: bytes, aes: Aes = KEY) -> bytes:
    padder = PKCS7(128).padder()
    padded = padder.update(content) + padder.finalize()
    cipher = Cipher(algorithms.AES(bytes.fromhex(aes.key)), modes.CBC(bytes.fromhex(aes.iv)))
    encryptor = cipher.encryptor()
    return encryptor.update(padded) + encryptor.finalize()


LAYOUTS = {
    "array-on-one-line": json.dumps(RECORDS, separators=(",", ":")).encode(),
    "array-with-spaces": ARRAY,
    "pretty-array": json.dumps(RECORDS, indent=2, ensure_ascii=False).encode(),
    "array-behind-bom": b"\xef\xbb\xbf " + ARRAY + b"\n",
    "ndjson": NDJSON,
    "ndjson-with-crlf-and-empty-lines": b"\r\n\r\n".join(NDJSON.split(b"\n")) + b"\r\n",
    "concatenated": NDJSON.replace(b"\n", b""),
    "pretty-concatenated": b"\n".join(json.dumps(record, indent=1).encode() for record in RECORDS),
    "objects-with-commas": NDJSON.replace(b"\n", b",\n"),
    "arrays": b"[]" + json.dumps(RECORDS[:4]).encode() + b"\n" + json.dumps(RECORDS[4:]).encode(),
    "arrays-in-lines": b"\n".join(json.dumps([record]).encode() for record in RECORDS),
    "gzip": gzip.compress(ARRAY),
    "gzip-members": gzip.compress(NDJSON[:100]) + gzip.compress(NDJSON[100:]),
    "zstd": zstandard.compress(ARRAY),
    "zstd-frames": zstandard.compress(NDJSON[:100]) + zstandard.compress(NDJSON[100:]),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("aes", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("window", [16, 1 << 20], ids=["small-windows", "one-window"])
def test_all_layouts_have_the_same_records(
    convert_bytes: Convert,
    monkeypatch: pytest.MonkeyPatch,
    layout: bytes,
    aes: Aes | None,
    window: int,
) -> None:
    monkeypatch.setattr("vistaflow_services.tables.engines.python.PythonEngine.piece_bytes", window)
    monkeypatch.setattr(sources, "READ_BYTES", 48 if window == 16 else 1 << 20)

    output = convert_bytes(encrypted(layout) if aes else layout, aes=aes)

    assert [(row["id"], row["name"]) for row in output.table()] == [
        (str(record["id"]), record["name"]) for record in RECORDS
    ]
    assert [(row["_parent"], row["n"]) for row in output.table("items")] == [
        (str(number), str(item["n"]))
        for number, record in enumerate(RECORDS, 1)
        for item in record["items"]
    ]


def test_parts_have_exactly_as_many_rows_as_asked_for(convert_bytes: Convert) -> None:
    output = convert_bytes(ARRAY, max_csv_rows=4)

    assert [(part.file_name, part.rows) for part in output.converted.parts] == [
        ("out_1.csv", 4), ("out_2.csv", 4), ("out_3.csv", 2),
        ("out.items_1.csv", 4), ("out.items_2.csv", 4), ("out.items_3.csv", 1),
    ]  # fmt: skip
    for part in output.converted.parts:
        content = output.files[part.file_name]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (
            part.size_bytes,
            part.sha256,
        )


def test_merged_inputs_feed_one_sequence_of_parts(convert_bytes: Convert) -> None:
    output = convert_bytes(ARRAY, NDJSON, max_csv_rows=15)

    assert [part.rows for part in output.converted.parts if not part.table] == [15, 5]
    assert [row["_row"] for row in output.table()] == [str(number) for number in range(1, 21)]


@pytest.mark.parametrize("merge", [True, False])
def test_the_manifest_names_what_was_read_of_each_input(
    convert_bytes: Convert, merge: bool
) -> None:
    contents = encrypted(gzip.compress(ARRAY)), encrypted(NDJSON)
    output = convert_bytes(*contents, aes=KEY, merge=merge)

    assert output.manifest["inputs"] == [
        {
            "name": f"input{number}.json",
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "version": "",
        }
        for number, content in enumerate(contents, 1)
    ]


def test_what_was_read_before_a_stop_is_read_again_and_compared(
    convert_bytes: Convert, tmp_path: Path
) -> None:
    content = b"\n".join(b'{"n":%d}' % number for number in range(40_000))
    seen: list[int] = []
    stop = Hooks(canceled=lambda: len(seen) > 3, progress=lambda p: seen.append(p.records))
    options = {"folder": tmp_path / "out", "max_csv_rows": 1_000, "file_sep_size": 2_000}
    with pytest.raises(ConversionCanceled):
        convert_bytes(content, hooks=stop, **options)

    with pytest.raises(InvalidError, match=r"input1.json: changed since the conversion began"):
        convert_bytes(content[:100_000] + content[100_000:].replace(b"12345", b"54321"), **options)
    output = convert_bytes(content, **options)

    assert output.manifest["inputs"][0]["sha256"] == hashlib.sha256(content).hexdigest()


def test_inputs_that_are_not_merged_have_parts_of_their_own(convert_bytes: Convert) -> None:
    output = convert_bytes(ARRAY, NDJSON, merge=False, max_csv_rows=8)

    names = [part.file_name for part in output.converted.parts if not part.table]
    assert names == ["out-1_1.csv", "out-1_2.csv", "out-2_1.csv", "out-2_2.csv"]


def test_all_parts_have_one_header_and_late_columns_are_empty_before(
    convert_bytes: Convert,
) -> None:
    output = convert_bytes(
        b'{"a":1,"t":"x\\ny\\""}\n{"a":2}\n{"a":3}\n{"b":4}\n{"c":"z"}', max_csv_rows=2
    )

    assert [output.files[f"out_{number}.csv"].decode() for number in (1, 2, 3)] == [
        '"_row","a","t","b","c"\n1,"1","x\ny""",,\n2,"2",,,\n',
        '"_row","a","t","b","c"\n3,"3",,,\n4,,,"4",\n',
        '"_row","a","t","b","c"\n5,,,,"z"\n',
    ]


@pytest.mark.parametrize("size", [1, 3])
def test_the_size_of_chunks_does_not_change_the_result(convert_bytes: Convert, size: int) -> None:
    expected = convert_bytes(ARRAY).files
    del expected["out.manifest.json"]

    files = convert_bytes(ARRAY, file_sep_size=size).files

    assert {name: files[name] for name in expected} == expected


def test_formulas_are_guarded_and_can_be_undone(convert_bytes: Convert) -> None:
    cells = ["=1+1", "+82-10", "-2+3", "@SUM(1)", "\t=1", "\r", "'=1", "''=1", "'x", "-5", "-1.5e3"]
    content = b"\n".join(json.dumps({"v": cell}).encode() for cell in cells)

    guarded = [row["v"] for row in convert_bytes(content).table()]
    plain = [row["v"] for row in convert_bytes(content, formula_guard=False).table()]

    assert guarded == [
        "'=1+1", "'+82-10", "'-2+3", "'@SUM(1)", "'\t=1", "'\r", "''=1", "'''=1", "'x", "-5",
        "-1.5e3",
    ]  # fmt: skip
    assert plain == cells


def test_options_of_csv_are_followed(convert_bytes: Convert) -> None:
    output = convert_bytes(b'{"a":"x;y"}', delimiter=";", byte_order_mark=True)

    assert output.files["out_1.csv"] == b'\xef\xbb\xbf"_row";"a"\n1;"x;y"\n'


def unzstd(content: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(content)


@pytest.mark.parametrize(
    ("compression", "ending", "decompress"),
    [
        (Compression.GZIP, "csv.gz", gzip.decompress),
        (Compression.ZSTD, "csv.zst", unzstd),
    ],
    ids=["gzip", "zstd"],
)  # fmt: skip
def test_parts_can_be_compressed(
    convert_bytes: Convert, compression: Compression, ending: str, decompress: Any
) -> None:
    plain = convert_bytes(ARRAY).files["out_1.csv"]

    assert (
        decompress(convert_bytes(ARRAY, compression=compression).files[f"out_1.{ending}"]) == plain
    )


def test_parquet_has_the_narrowest_types_that_give_the_texts_back(convert_bytes: Convert) -> None:
    output = convert_bytes(
        b'{"i":1,"d":1.5,"b":true,"z":"007","m":1,"p":1.10,"n":null,"big":18446744073709551616}\n'
        b'{"i":-2,"d":2.25,"b":false,"z":"1","m":"x","items":[{"x":1}]}',
        format=Format.BOTH,
        max_csv_rows=1,
    )

    table = pq.read_table(output.folder / "out_2.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "_row": "string", "i": "int64", "d": "double", "b": "bool", "z": "string", "m": "string",
        "p": "string", "big": "string",
    }  # fmt: skip
    assert table.to_pylist() == [
        {"_row": "2", "i": -2, "d": 2.25, "b": False, "z": "1", "m": "x", "p": None, "big": None}
    ]
    assert pq.read_table(output.folder / "out.items_1.parquet").to_pylist() == [
        {"_row": "2#1", "_parent": "2", "_index": 1, "x": 1}
    ]


def test_objects_keyed_by_ids_become_child_tables(convert_bytes: Convert) -> None:
    content = b'{"user":{"u1":{"age":26},"u2":{"age":30,"tags":[{"t":1}]}}}'

    output = convert_bytes(content, map_paths=("user",))

    assert output.table("user") == [
        {"_row": "1#1", "_parent": "1", "_index": "1", "_key": "u1", "age": "26"},
        {"_row": "1#2", "_parent": "1", "_index": "2", "_key": "u2", "age": "30"},
    ]
    assert output.table("user.tags") == [
        {"_row": "1#2#1", "_parent": "1#2", "_index": "1", "t": "1"}
    ]


MAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "objects": ("m", {"m": {f"k{n}": {"x": n} for n in range(101)}}),
    "arrays": ("m", {"m": {f"k{n}": [{"x": n}] for n in range(101)}}),
    "below-an-object": ("o.m", {"o": {"m": {f"k{n}": {"x": n} for n in range(101)}}}),
    "the-record": ("", {f"k{n}": {"x": n} for n in range(101)}),
}


@pytest.mark.parametrize(("path", "record"), MAPS.values(), ids=MAPS.keys())
@pytest.mark.parametrize("spread", [False, True], ids=["one-record", "many-records"])
def test_an_object_with_over_100_keys_of_one_shape_is_keyed_by_ids(
    convert_bytes: Convert, path: str, record: dict[str, Any], spread: bool
) -> None:
    content = json.dumps(record).encode()
    before = b'{"other":1}\n' if path else b""
    if spread and path == "m":
        content = b"\n".join(
            json.dumps({"m": {key: value}}).encode() for key, value in record["m"].items()
        )

    output = convert_bytes(before + content, max_csv_rows=7)

    assert output.converted.map_paths == (path,)
    assert [row["_key"] for row in output.table(path or "_entries")] == [
        f"k{number}" for number in range(101)
    ]


def test_100_keys_are_columns(convert_bytes: Convert) -> None:
    output = convert_bytes(json.dumps({f"k{n}": {"x": n} for n in range(100)}).encode())

    assert (output.converted.map_paths, len(output.header())) == ((), 101)


def test_a_wide_record_is_not_keyed_by_ids(convert_bytes: Convert) -> None:
    record = json.dumps({f"k{n}": n for n in range(300)}).encode()

    assert len(convert_bytes(record + record).header()) == 301


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "path": ({"output_file_name": "a/b"}, "output_file_name"),
    "parent": ({"output_file_name": ".."}, "output_file_name"),
    "nul": ({"output_file_name": "a\0b"}, "output_file_name"),
    "empty": ({"output_file_name": ""}, "output_file_name"),
    "long": ({"output_file_name": "가" * 41}, "output_file_name"),
    "surrogate": ({"output_file_name": "\ud800"}, "output_file_name"),
    "rows": ({"max_csv_rows": 0}, "max_csv_rows"),
    "chunk": ({"file_sep_size": -1}, "file_sep_size"),
    "delimiter": ({"delimiter": '"'}, "delimiter"),
    "format": ({"format": "xml"}, "format"),
    "engine": ({"engine": "spark"}, "engine"),
    "map-path": ({"map_paths": ("x" * 2001,)}, "map_paths[0]"),
}


@pytest.mark.parametrize(("options", "field"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_options_that_are_not_valid_are_refused_by_name(
    options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        Conversion(**{"output_file_name": "out", **options})

    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.mark.parametrize(("key", "iv"), [("ab" * 31, "ab" * 16), ("ab" * 32, "zz" * 16)])
def test_a_key_that_is_not_valid_is_refused_without_a_digit_of_it(key: str, iv: str) -> None:
    with pytest.raises(InvalidError) as refused:
        Aes(key=key, iv=iv)

    assert "ab" not in refused.value.message
    assert "zz" not in refused.value.message


WRONG = {
    "key": (encrypted(ARRAY), Aes(key="00" * 32, iv=KEY.iv)),
    "iv": (encrypted(ARRAY), Aes(key=KEY.key, iv="00" * 16)),
    "not-encrypted": (ARRAY, KEY),
    "truncated": (encrypted(ARRAY)[:-5], KEY),
    "truncated-by-a-block": (encrypted(ARRAY)[:-16], KEY),
    "compressed-and-wrong": (encrypted(gzip.compress(ARRAY)), Aes(key="00" * 32, iv=KEY.iv)),
    "empty": (b"", KEY),
}


@pytest.mark.parametrize(("content", "aes"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_key_has_one_message(convert_bytes: Convert, content: bytes, aes: Aes) -> None:
    with pytest.raises(InvalidError) as refused:
        convert_bytes(content, aes=aes)

    assert refused.value.reason == "NOT_DECRYPTED"
    assert refused.value.message == (
        "input1.json: decryption does not give JSON; check aes256cbckey and iv, and that the file "
        "was encrypted by AES-256-CBC"
    )


BROKEN = {
    "not-json": (b"user_id,name\n1,x", "byte 0: this is not JSON: it must begin with { or ["),
    "truncated-gzip": (gzip.compress(ARRAY)[:-20], "the gzip data ends early"),
    "damaged-gzip": (gzip.compress(ARRAY)[:40] + b"\0" * 40, "the gzip data is damaged"),
    "truncated-zstd": (zstandard.compress(ARRAY)[:-9], "the zstd data ends early"),
    "bomb": (gzip.compress(b" " * (80 << 20)), "expands more than 1,000-fold"),
    "text-behind": (ARRAY + b"x", f"byte {len(ARRAY):,}: expected an object"),
    "no-comma": (b'[{"a":1} {"a":2}]', "byte 9: expected an object"),
    "two-commas": (b'[{"a":1},,{"a":2}]', "expected an object"),
    "comma-first": (b'[,{"a":1}]', "byte 1: expected an object"),
    "comma-last": (b'[{"a":1},]', "expected an object"),
    "array-in-array": (b'[[{"a":1}]]', "byte 1: expected an object"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("window", [4, 1 << 20], ids=["small-windows", "one-window"])
def test_broken_input_is_refused_with_its_place_and_leaves_no_file(
    convert_bytes: Convert,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: bytes,
    words: str,
    window: int,
) -> None:
    monkeypatch.setattr("vistaflow_services.tables.engines.python.PythonEngine.piece_bytes", window)

    with pytest.raises(InvalidError) as refused:
        convert_bytes(content, folder=tmp_path / "out")

    assert words in refused.value.message
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."] == []


@pytest.mark.parametrize("content", [b"", b" \n", b"[]", b"\xef\xbb\xbf[ ]\n[]"])
def test_an_input_without_records_gives_a_manifest_only(
    convert_bytes: Convert, content: bytes
) -> None:
    assert list(convert_bytes(content).files) == ["out.manifest.json"]


def test_a_record_that_is_too_long_is_refused(
    convert_bytes: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(
        "vistaflow_services.tables.engines.python.PythonEngine.piece_bytes", 1 << 16
    )
    content = b'[{"a":1},{"a":"' + b"x" * (1 << 20) + b'"}]'

    with pytest.raises(InvalidError, match=r"record 2, byte 9: the record is longer than 1 MiB"):
        convert_bytes(content)


def test_too_many_columns_are_refused(
    convert_bytes: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape, "MAX_COLUMNS", 50)

    with pytest.raises(InvalidError, match=r"more than 50 columns; if the keys .* map_paths"):
        convert_bytes(json.dumps({f"c{number}": number for number in range(60)}).encode())


def test_names_of_tables_are_names_of_files(convert_bytes: Convert) -> None:
    output = convert_bytes(b'{"../x/\\u0001":[{"a":1}],"%s":[{"a":2}]}' % ("긴" * 90).encode())

    names = [part.file_name for part in output.converted.parts if part.table]
    assert names[0] == "out.%5C.%5C.%2Fx%2F%01_1.csv"
    assert all(len(name.encode()) <= 255 and "/" not in name for name in names)
    assert set(names) <= set(output.files)


def test_progress_is_reported_and_ends_with_all_bytes(convert_bytes: Convert) -> None:
    steps: list[Progress] = []

    convert_bytes(ARRAY, file_sep_size=3, max_csv_rows=4, hooks=Hooks(progress=steps.append))

    assert [step.records for step in steps] == [3, 6, 9, 10]
    assert steps[-1] == Progress(
        bytes_read=len(ARRAY), bytes_total=len(ARRAY), records=10, rows=19, files=4
    )


def test_a_canceled_conversion_goes_on_and_gives_the_same_files(
    convert_bytes: Convert, tmp_path: Path
) -> None:
    expected = convert_bytes(ARRAY, file_sep_size=1, max_csv_rows=2).files
    folder = tmp_path / "canceled"
    for _ in range(20):
        calls = iter([False, False, True])
        with pytest.raises(ConversionCanceled):
            convert_bytes(
                ARRAY, file_sep_size=1, max_csv_rows=2, folder=folder,
                hooks=Hooks(canceled=lambda calls=calls: next(calls)),
            )  # fmt: skip
        if (folder / ".out.conversion" / "journal.json").exists():
            break

    output = convert_bytes(ARRAY, file_sep_size=1, max_csv_rows=2, folder=folder)

    assert output.files == expected


def test_a_conversion_that_ended_is_answered_again(convert_bytes: Convert, tmp_path: Path) -> None:
    first = convert_bytes(ARRAY, folder=tmp_path / "out")

    again = convert_bytes(ARRAY, folder=tmp_path / "out")

    assert again.converted.parts == first.converted.parts


def test_another_conversion_to_the_same_name_is_refused(
    convert_bytes: Convert, tmp_path: Path
) -> None:
    convert_bytes(ARRAY, folder=tmp_path / "out")

    with pytest.raises(ExistsError, match="choose another name"):
        convert_bytes(NDJSON, folder=tmp_path / "out")


def test_two_conversions_to_one_name_at_once_are_refused(
    convert_bytes: Convert, tmp_path: Path
) -> None:
    with (
        sole_use(tmp_path / "out" / ".out.conversion", "out"),
        pytest.raises(ConflictError, match="another conversion to out is running"),
    ):
        convert_bytes(ARRAY, folder=tmp_path / "out")


def test_a_full_disk_is_a_clear_error_and_the_conversion_goes_on_later(
    convert_bytes: Convert, tmp_path: Path
) -> None:
    content = b"\n".join(b'{"n":%d,"v":"%s"}' % (n, b"x" * 1000) for n in range(4000))
    expected = convert_bytes(content, max_csv_rows=500).files

    with small_disk(tmp_path / "disk", 9) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(6 << 20))
        with pytest.raises(ExhaustedError, match="the disk of the output is full"):
            convert_bytes(content, max_csv_rows=500, folder=disk / "out")
        assert [path.name for path in (disk / "out").iterdir()] == [".out.conversion"]
        ballast.unlink()

        output = convert_bytes(content, max_csv_rows=500, folder=disk / "out")

        assert output.files == expected


def test_all_streams_of_a_source_are_closed(tmp_path: Path) -> None:
    opened: list[io.BytesIO] = []

    def open_stream() -> io.BytesIO:
        opened.append(io.BytesIO(ARRAY))
        return opened[-1]

    once = sources.Source(name="x", open=open_stream)
    convert([once], Conversion(output_file_name="x", engine=EngineName.PYTHON), output=tmp_path)

    assert all(stream.closed for stream in opened)


def test_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="file_names"):
        convert([], Conversion(output_file_name="x"), output=tmp_path)
