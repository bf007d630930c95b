"""Reading: pages, columns, filters; damage and losses of stores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.datasets.conftest import Workspace
from vistaflow_services.core.errors import DataLossError, InvalidError
from vistaflow_services.datasets.engine import Engine
from vistaflow_services.datasets.manifest import Column, Table
from vistaflow_services.datasets.parts import limited, store_parts
from vistaflow_services.datasets.reader import BATCH_ROWS, read
from vistaflow_services.stores.copies import CopiesStore
from vistaflow_services.stores.folder import FolderStore

COUNTS = (5, 3, 70_000, 1)
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Table]:
    """A table of the numbers from 0 in several parts, and `odd` of each."""
    folder = tmp_path_factory.mktemp("numbers")
    workspace = Workspace(store=FolderStore("local", folder / "store"), folder=folder)
    paths, first = [], 0
    for index, count in enumerate(COUNTS):
        values = range(first, first + count)
        table = pa.table({"n": values, "odd": [number % 2 == 1 for number in values]})
        paths.append(folder / f"{index}.parquet")
        pq.write_table(table, paths[-1])
        first += count
    columns = (Column(name="n", type="BIGINT"), Column(name="odd", type="BOOLEAN"))
    parts = store_parts(workspace.store, paths, limited(None))
    return workspace, Table(name="t", columns=columns, parts=parts)


def read_numbers(workspace: Workspace, table: Table, **options: Any) -> list[int]:
    batches = list(read(table, workspace.store, workspace.folder, columns=["N"], **options))
    assert all(0 < batch.num_rows <= BATCH_ROWS for batch in batches)
    return [number for batch in batches for number in batch.column("n").to_pylist()]


@pytest.mark.parametrize("limit", [None, 0, 1, 4, 66_000, TOTAL + 1])
@pytest.mark.parametrize("offset", [0, 4, 5, 8, 70_007, TOTAL - 1, TOTAL, TOTAL + 5])
def test_a_page_is_a_slice_of_the_rows(
    numbers: tuple[Workspace, Table], offset: int, limit: int | None
) -> None:
    end = TOTAL if limit is None else min(TOTAL, offset + limit)

    assert read_numbers(*numbers, offset=offset, limit=limit) == list(range(offset, end))


@pytest.mark.parametrize(
    ("offset", "limit"), [(0, None), (3, 2), (35_000, 10), (0, 0), (40_000, 1)]
)
def test_a_page_of_filtered_rows_is_a_slice_of_them(
    numbers: tuple[Workspace, Table], offset: int, limit: int | None
) -> None:
    odd = list(range(1, TOTAL, 2))
    expected = odd[offset:] if limit is None else odd[offset : offset + limit]

    assert read_numbers(*numbers, filter="odd", offset=offset, limit=limit) == expected


def test_columns_come_in_the_order_of_the_request(numbers: tuple[Workspace, Table]) -> None:
    workspace, table = numbers
    (batch,) = read(table, workspace.store, workspace.folder, columns=["odd", "n"], limit=1)
    assert batch.to_pylist() == [{"odd": False, "n": 0}]
    assert batch.schema.names == ["odd", "n"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"columns": ["x"]}, r"columns\[0\]: there is no column `x`; columns are n, odd"),
        ({"filter": "x > 1"}, r"filter: there is no column `x`"),
        ({"filter": "n > 1; select 1"}, r"filter: is not one expression"),
        ({"filter": "n like 'x'"}, r"filter: "),
        ({"offset": -1}, r"offset: is -1"),
        ({"limit": -1}, r"limit: is -1"),
    ],
)
def test_a_mistake_is_raised_before_the_first_row(
    numbers: tuple[Workspace, Table], options: dict[str, Any], problem: str
) -> None:
    workspace, table = numbers
    with pytest.raises(InvalidError, match=problem):
        read(table, workspace.store, workspace.folder, **options)


def test_rows_are_computed_as_they_are_read(numbers: tuple[Workspace, Table]) -> None:
    workspace, table = numbers
    batches: Iterator[pa.RecordBatch] = read(table, workspace.store, workspace.folder)
    next(batches)
    assert [path for path in workspace.folder.iterdir() if path.name.startswith("read-")] != []
    batches.close()  # type: ignore[attr-defined]
    assert [path for path in workspace.folder.iterdir() if path.name.startswith("read-")] == []


def test_wide_rows_come_in_small_batches(workspace: Workspace) -> None:
    path = workspace.folder / "wide.parquet"
    texts = [f"{number}" + "x" * 100_000 for number in range(1000)]
    pq.write_table(pa.table({"v": texts}), path, use_dictionary=False)
    parts = store_parts(workspace.store, [path], limited(None))
    table = Table(name="t", columns=(Column(name="v", type="VARCHAR"),), parts=parts)

    sizes = [batch.num_rows for batch in read(table, workspace.store, workspace.folder)]

    assert sum(sizes) == 1000
    assert max(sizes) <= 200


def test_a_damaged_part_is_an_error_and_no_row(workspace: Workspace) -> None:
    built = workspace.table([{"v": 1}, {"v": 2}])
    (part,) = built.manifest.table("t").parts
    path = workspace.folder / "store" / "cas" / part.sha256[:2] / part.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(DataLossError, match="is damaged"):
        workspace.rows(built.manifest)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_dataset_reads_without_any_one_store(tmp_path: Path, lost: str) -> None:
    stores = [FolderStore(name, tmp_path / name) for name in "abc"]
    workspace = Workspace(store=CopiesStore(stores, copies=2), folder=tmp_path)
    tables = [workspace.table([{"v": number}]).manifest for number in range(8)]
    shutil.rmtree(tmp_path / lost)

    assert [workspace.rows(manifest) for manifest in tables] == [
        [{"v": number}] for number in range(8)
    ]


def test_the_engine_reads_its_files_and_no_others(workspace: Workspace) -> None:
    allowed = workspace.file("allowed.csv", "v\n1\n")
    other = workspace.file("other.csv", "v\n2\n")
    scratch = workspace.folder / "work"
    scratch.mkdir()
    with Engine(scratch, [allowed]) as engine:
        assert engine.count(f"read_csv('{allowed}')") == 1
        for statement in (
            f"SELECT * FROM read_csv('{other}')",
            "SELECT * FROM read_text('/etc/passwd')",
            f"SELECT * FROM read_csv('{scratch}/../other.csv')",
            f"COPY (SELECT 1) TO '{workspace.folder}/written.csv'",
            f"ATTACH '{workspace.folder}/x.db'",
            "SET enable_external_access = true",
            "RESET lock_configuration",
            "INSTALL httpfs",
        ):
            with pytest.raises(InvalidError) as caught:
                engine.rows(statement)
            assert str(workspace.folder) not in str(caught.value)
