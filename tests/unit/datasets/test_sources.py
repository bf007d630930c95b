"""What files become: types without losses, and clear errors for what is no table."""

from __future__ import annotations

import gzip
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.datasets.conftest import Workspace
from tests.unit.datasets.test_erasure import version
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.datasets.build import TableSpec
from vistaflow_services.datasets.erasure import forget
from vistaflow_services.datasets.sources import MAX_COLUMNS, Source
from vistaflow_services.stores.folder import FolderStore

ROWS = [{"id": 1, "name": "가"}, {"id": 2, "name": None}]


def only(values: list[str]) -> str:
    return "v,end\n" + "".join(f"{value},x\n" for value in values)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "-2", "0"], "BIGINT", [1, -2, 0]),
        (["999999999999999999", ""], "BIGINT", [999999999999999999, None]),
        (["00123", "5"], "VARCHAR", ["00123", "5"]),
        (["9223372036854775808"], "VARCHAR", ["9223372036854775808"]),
        (["-0"], "DOUBLE", [-0.0]),
        (["1.10", "2", ".5", "1e-9"], "DOUBLE", [1.1, 2.0, 0.5, 1e-9]),
        (["1e400"], "VARCHAR", ["1e400"]),
        (["12345678901234567.5"], "VARCHAR", ["12345678901234567.5"]),
        (["true", "false"], "BOOLEAN", [True, False]),
        (["2024-02-29"], "DATE", [date(2024, 2, 29)]),
        (["2023-02-29"], "VARCHAR", ["2023-02-29"]),
        (["2024-03-11 03:57:09.5"], "TIMESTAMP", [datetime(2024, 3, 11, 3, 57, 9, 500000)]),
        (["2024-03-11T03:57:09+09:00"], "VARCHAR", ["2024-03-11T03:57:09+09:00"]),
        (["", ""], "VARCHAR", [None, None]),
        (['""', ""], "VARCHAR", ["", None]),
        (["1", "x"], "VARCHAR", ["1", "x"]),
        (["nan", "1"], "VARCHAR", ["nan", "1"]),
        (['"a\nb ""c"", d"'], "VARCHAR", ['a\nb "c", d']),
    ],
)
def test_types_of_csv_lose_nothing(
    workspace: Workspace, values: list[str], kind: str, expected: list[Any]
) -> None:
    built = workspace.table(workspace.file("x.csv", only(values)))

    assert built.manifest.table("t").columns[0].type == kind
    assert [row["v"] for row in workspace.rows(built.manifest)] == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ("1, -2, null", "BIGINT", [1, -2, None]),
        ("1.5, 2", "DOUBLE", [1.5, 2.0]),
        ("123456789012345678901234567890", "VARCHAR", ["123456789012345678901234567890"]),
        ("1e400", "VARCHAR", ["1e400"]),
        ('"1", "00"', "VARCHAR", ["1", "00"]),
        ('"2024-01-01"', "VARCHAR", ["2024-01-01"]),
        ('1, "x"', "VARCHAR", ["1", "x"]),
        ('{"a": [1, 2]}, [], "s"', "VARCHAR", ['{"a":[1,2]}', "[]", "s"]),
        ("true, false", "BOOLEAN", [True, False]),
        ('"", null', "VARCHAR", ["", None]),
    ],
)
def test_types_of_json_lose_nothing(
    workspace: Workspace, values: str, kind: str, expected: list[Any]
) -> None:

    objects = [{"v": value, "end": "x"} for value in json.loads(f"[{values}]", parse_float=str)]
    text = json.dumps(objects)
    if "e400" in values or "1.5" in values:
        text = text.replace('"1e400"', "1e400").replace('"1.5"', "1.5")
    built = workspace.table(workspace.file("x.json", text))

    assert built.manifest.table("t").columns[0].type == kind
    assert [row["v"] for row in workspace.rows(built.manifest)] == expected


@pytest.mark.parametrize(
    "content",
    [
        '[{"id": 1, "name": "가"}, {"id": 2}]',
        '{"id": 1, "name": "가"}\n{"id": 2, "name": null}\n',
        '{"id": 1,\n "name": "가"} {"id": 2}',
    ],
    ids=["array", "lines", "concatenated"],
)
def test_json_is_read_in_every_form(workspace: Workspace, content: str) -> None:
    assert workspace.rows(workspace.table(workspace.file("x.json", content)).manifest) == ROWS


def write_ipc(path: Path, *, stream: bool) -> Path:
    table = pa.Table.from_pylist(ROWS)
    opened = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opened(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def test_every_format_gives_the_same_rows(workspace: Workspace) -> None:
    csv = "id,name\n1,가\n2,\n"
    files = [
        workspace.file("bom.csv", "\ufeff" + csv),
        workspace.file("crlf.csv", csv.replace("\n", "\r\n")),
        workspace.file("x.csv.gz", gzip.compress(csv.encode())),
        workspace.file("x.csv.zst", pa.Codec("zstd").compress(csv.encode()).to_pybytes()),
        workspace.file("x.tsv", csv.replace(",", "\t")),
        workspace.file("semicolon.csv", csv.replace(",", ";")),
        workspace.file("x.ndjson.gz", gzip.compress(b'{"id":1,"name":"\xea\xb0\x80"}\n{"id":2}')),
        write_parquet(workspace.folder / "x.parquet"),
        write_ipc(workspace.folder / "x.arrow", stream=False),
        write_ipc(workspace.folder / "stream.arrow", stream=True),
    ]
    read = {path.name: workspace.rows(workspace.table(path).manifest) for path in files}

    assert read == {path.name: ROWS for path in files}
    assert workspace.rows(workspace.table(ROWS).manifest) == ROWS


def test_files_of_one_table_are_read_one_after_the_other(workspace: Workspace) -> None:
    csvs = tuple(workspace.file(f"{number}.csv", f"v\n{number}\n") for number in (3, 1, 2))
    parquets = tuple(workspace.folder / f"{number}.parquet" for number in (3, 1, 2))
    for number, path in zip((3, 1, 2), parquets, strict=True):
        pq.write_table(pa.table({"v": [number]}), path)

    for paths in (csvs, parquets):
        built = workspace.build(TableSpec(name="t", source=Source(paths=paths)))
        assert workspace.rows(built.manifest) == [{"v": 3}, {"v": 1}, {"v": 2}]


def test_equal_imports_are_equal_versions(workspace: Workspace) -> None:
    text = only([str(number) for number in range(1000)])
    first, second = workspace.file("a.csv", text), workspace.file("b.csv", text)

    assert workspace.table(first).manifest.digest == workspace.table(second).manifest.digest


def test_values_that_do_not_fit_a_declared_type_are_rejected(workspace: Workspace) -> None:
    built = workspace.table(
        workspace.file("x.csv", "Price,n\n1.10,a\ncheap,b\n,c\n"), types={"price": "decimal(10,2)"}
    )

    assert built.report.tables[0].rejected == {"type": 1}
    assert workspace.rows(built.manifest, columns=["n"]) == [{"n": "a"}, {"n": "c"}]
    (reject,) = workspace.rows(built.manifest, rejects=True)
    assert (reject["_rule"], reject["_value"], reject["n"]) == ("type", "cheap", "b")


def test_csv_without_a_header_has_names_in_the_request(workspace: Workspace) -> None:
    path = workspace.file("x.csv", "1,2.5\n3,4\n")

    assert workspace.rows(workspace.table(path, names=("a", "b")).manifest) == [
        {"a": 1, "b": 2.5},
        {"a": 3, "b": 4.0},
    ]
    with pytest.raises(InvalidError, match="line 1 has 2 values, not 1 as there are names"):
        workspace.table(path, names=("a",))
    with pytest.raises(InvalidError, match=r"source\.names: column 2, `A`, is there twice"):
        workspace.table(path, names=("a", "A"))


def test_texts_can_mean_a_missing_value(workspace: Workspace) -> None:
    built = workspace.table(workspace.file("x.csv", "v\n1\nNA\n"), null_texts=("", "NA"))

    assert workspace.rows(built.manifest) == [{"v": 1}, {"v": None}]


WIDE = ",".join(f"c{number}" for number in range(MAX_COLUMNS + 1))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.csv", "", "is empty; CSV begins with a line of column names"),
        ("x.csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 values, not 2 as there are names"),
        ("x.csv", "a,b\n1\n", "line 2 has 1 values, not 2 as there are names"),
        ("x.csv", "1,2.5\n3,4\n", "has numbers instead of names in line 1"),
        ("x.json", '[{"a": 1}] [{"a": 2}]', "ConvertJson reads other forms of JSON"),
        ("x.csv", 'a,b\n1,"2\n', "has a quote that does not end"),
        ("x.csv", b"a,b\n1,\xff\n", "is not UTF-8"),
        ("x.csv", b"\xff,b\n1,2\n", "line 1 is not UTF-8"),
        ("x.csv", b"a\0,b\n1,2\n", "contains NUL bytes"),
        ("x.csv", "a,A\n1,2\n", "column 2, `A`, is there twice"),
        ("x.csv", "a,\n1,2\n", "column 2, ``, needs a name"),
        ("x.csv", "a,_rule\n1,2\n", "has a name of vistaflow's own"),
        ("x.csv", WIDE + "\n", "has 10001 columns; at most 10000"),
        ("x.csv", "a,b\n1," + "x" * 3_000_000 + "\n", "is longer than 2,000,000 bytes"),
        ("x.csv.gz", b"\x1f\x8b broken", "cannot be decompressed"),
        ("x.json", "hello", "is not valid JSON"),
        ("x.json", "", "is not objects in one array or one a line"),
        ("x.json", "[1, 2]", "is not objects in one array or one a line"),
        ("x.json", '{"a": 1}\n{"a":', "is not valid JSON: unexpected end of data"),
        ("x.json", '{"a": 1, "a": 2}', "one key twice"),
        ("x.json", '[{"a": 1}, {"a": NaN}]', "`a` is NaN or infinite"),
        ("x.json", '[{"a": "\\ud800"}]', "is not valid JSON"),
        ("x.parquet", b"PAR1 broken", "cannot be read as declared"),
        ("x.arrow", b"ARROW1 broken", "is not an Arrow IPC file"),
        ("x.bin", "a,b\n", "is not known from the file"),
    ],
)
def test_what_is_no_table_is_a_clear_error(
    workspace: Workspace, name: str, content: str | bytes, problem: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        workspace.table(workspace.file(name, content))

    assert problem in str(caught.value)
    assert caught.value.violations[0].field.startswith("source")
    assert str(workspace.folder) not in str(caught.value)
    assert list(workspace.store.blobs()) == []


def test_a_file_that_is_made_to_fill_the_disk_is_refused(workspace: Workspace) -> None:
    path = workspace.file("x.csv.gz", gzip.compress(b"v\n" + b"1\n" * 40_000_000, 1))
    with pytest.raises(InvalidError, match="source: is more than 100 times as large when"):
        workspace.table(path)


def test_a_file_that_is_gone_is_a_clear_error(workspace: Workspace) -> None:
    with pytest.raises(InvalidError, match="source: cannot be read; is the file still there") as e:
        workspace.table(workspace.folder / "gone.csv")
    assert str(workspace.folder) not in str(e.value)


def test_a_second_file_with_another_header_is_refused(workspace: Workspace) -> None:
    paths = (workspace.file("a.csv", "a,b\n"), workspace.file("b.csv", "b,a\n"))
    with pytest.raises(InvalidError, match=r"inputs\[1\]: has another header"):
        workspace.build(TableSpec(name="t", source=Source(paths=paths, name="inputs")))


@pytest.mark.parametrize("kind", ["BLOB", "INTEGER[]", "VARCHAR); DROP TABLE x", ""])
def test_a_declared_type_is_one_of_a_list(workspace: Workspace, kind: str) -> None:
    with pytest.raises(InvalidError, match=r"source\.types\.v: .* is no type"):
        workspace.table(workspace.file("x.csv", "v\n1\n"), types={"v": kind})


def test_names_are_data_and_no_sql(workspace: Workspace) -> None:
    name = "x'\"); DROP TABLE t; --"
    built = workspace.table(
        workspace.file("it's [a] *.csv", f'"{name.replace(chr(34), chr(34) * 2)}"\n1\n')
    )

    assert workspace.rows(built.manifest) == [{name: 1}]


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.json", '[{"id": 1}, {"id": 2}]'), ("x.csv", "id\n1\n2\n"), ("x.parquet", "")],
)
def test_a_folder_called_as_a_partition_is_no_column(
    tmp_path: Path, name: str, content: str
) -> None:
    folder = tmp_path / "lot=7, it's [a]"
    folder.mkdir()
    workspace = Workspace(store=FolderStore("local", folder / "store"), folder=folder)
    path = workspace.file(name, content)
    if not content:
        pq.write_table(pa.table({"id": [1, 2]}), path)

    built = workspace.table(path, primary_key=("id",))
    erased = forget([version(built.manifest)], "t", [[2]], workspace.store, folder)

    assert [column.name for column in built.manifest.tables[0].columns] == ["id"]
    assert workspace.rows(built.manifest) == [{"id": 1}, {"id": 2}]
    assert workspace.rows(erased.manifest) == [{"id": 1}]
