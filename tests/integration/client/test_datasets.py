"""Datasets through the asynchronous client, on real services."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from tests.integration.stages import stage_serving
from vistaflow._machine.interpreter import module_command
from vistaflow.aio import AsyncClient
from vistaflow.aio._data.datasets import AsyncDataset
from vistaflow.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    KitFailedError,
    NotFoundError,
)
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME = pandas.DataFrame(
    {"이름": ["글렌피딕", "라가불린", None, "아드벡"], "price": [60.5, 110.0, -1.0, None]}
)
ROWS = 150_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    module_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncClient]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={tmp_path_factory.mktemp('data')}")
        config = Config(listen="127.0.0.1:0")
        async with (
            stage_serving(SERVICE, config, home=home, registry=module_registry),
            AsyncClient(module_registry) as client,
        ):
            async with asyncio.timeout(120):
                while not (await client.server_info()).services:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            yield client


async def imported(client: AsyncClient, name: str, *arguments: Any, **options: Any) -> AsyncDataset:
    """The version that an import makes."""
    job = await client.import_dataset(name, *arguments, **options)
    await client.wait(job.kit_id)
    version = (await client.job(job.job_id)).result["version"]
    return await client.dataset(f"{name}@{version}")


async def complaints(address: str, *command: str) -> str:
    """What a command says on stderr whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    process = await asyncio.create_subprocess_exec(
        *module_command("vistaflow.cli.app"),
        *command,
        env={**os.environ, "VISTAFLOW_REGISTRY": address},
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    _, said = await process.communicate()
    return said.decode()


async def test_a_data_frame_is_imported_and_read_back(client: AsyncClient) -> None:
    frame = await imported(client, "frame", FRAME)
    pandas.testing.assert_frame_equal(await frame.to_pandas(), FRAME)

    judged = await imported(
        client, "judged", frame, primary_key="이름", rules={"paid": "price > 0"}, alias="good"
    )
    assert (await judged.to_arrow()).to_pylist() == [
        {"이름": "글렌피딕", "price": 60.5},
        {"이름": "라가불린", "price": 110.0},
        {"이름": "아드벡", "price": None},
    ]
    rejects = await judged.rejects.to_arrow(columns=["price", "_rule"])
    assert rejects.to_pylist() == [{"price": -1.0, "_rule": "primary_key"}]
    assert judged.version.aliases == ("good",)
    assert [column.null_count for column in judged.profile] == [0, 1]
    assert repr(judged) == "AsyncDataset(judged@1, judged: 3 rows)"


async def test_a_dataset_object_reads_its_own_version(client: AsyncClient) -> None:
    first = await imported(client, "versions", pa.table({"a": [1]}))
    second = await imported(client, "versions", pa.table({"a": [1, 2]}))
    assert (await first.to_arrow()).num_rows == 1
    assert (await second.to_arrow()).num_rows == 2
    assert [entry.version async for entry in first.versions()] == [2, 1]

    summary = await client.set_dataset_alias("versions@1", "old")
    assert summary.aliases == {"old": 1}
    assert (await client.pin_dataset("versions@old")).pinned
    with pytest.raises(FailedPreconditionError, match="pinned"):
        await client.delete_dataset("versions@1")
    await client.update_dataset("versions", max_versions=9, max_age=timedelta(days=3))
    changed = await client.update_dataset("versions", max_versions=0, description="two")
    limits = (changed.max_versions, changed.max_age, changed.description)
    assert limits == (0, timedelta(days=3), "two")
    await client.set_dataset_alias("versions", "old", remove=True)
    await client.pin_dataset("versions@1", pinned=False)
    assert await client.delete_dataset("versions") == 2
    assert "versions" not in [entry.name async for entry in client.datasets()]


async def test_rows_are_read_in_batches_and_written_to_files(
    client: AsyncClient, tmp_path: Path
) -> None:
    table = pa.table({"id": range(ROWS), "text": [f"row {n}" for n in range(ROWS)]})
    path = tmp_path / "here.parquet"
    pq.write_table(table, path)
    dataset = await imported(client, "large", path, primary_key=["id"])

    assert dataset.version.source == "here.parquet"
    sizes = [batch.num_rows async for batch in dataset]
    assert (sum(sizes), len(sizes) > 1) == (ROWS, True)
    assert await dataset.to_arrow(columns=["id"], filter="id % 2 = 0", offset=1, limit=2) == (
        pa.table({"id": [2, 4]})
    )
    # Who stops reading leaves the service free for the next one.
    for _ in range(10):
        async for batch in dataset.batches():
            assert batch.num_rows
            break
    assert await complaints(client.address, "dataset", "read", "large", "--csv") == ""
    for name, read in (
        ("a.parquet", pq.read_table),
        ("a.arrow", feather.read_table),
        ("a.csv", pacsv.read_csv),
    ):
        assert read(await dataset.download(tmp_path / name)) == table
    with pytest.raises(InvalidArgumentError, match=r"'\.xls' is none of csv, json"):
        await dataset.download(tmp_path / "a.xls")
    with pytest.raises(InvalidArgumentError, match="cannot be written"):
        await dataset.download(tmp_path / "no folder" / "a.csv")
    with pytest.raises(InvalidArgumentError, match="there is no column `x`"):
        await dataset.download(tmp_path / "b.csv", columns=["x"])
    assert sorted(os.listdir(tmp_path)) == ["a.arrow", "a.csv", "a.parquet", "here.parquet"]


async def test_persons_are_forgotten_in_every_table(client: AsyncClient) -> None:
    tables = [
        {"name": "person", "source": pa.table({"id": [1, 2]}), "primary_key": "id"},
        {
            "name": "visit",
            "source": pa.table({"person": [1, 1, 2], "day": ["a", "b", "c"]}),
            "references": ["person -> person.id"],
        },
    ]
    dataset = await imported(client, "people", tables=tables)
    assert (await dataset.table("visit").to_arrow()).num_rows == 3

    job = await client.forget_records("people", [1], purge_after=timedelta(0))
    await client.wait(job.kit_id)
    visits = (await client.dataset("people")).table("visit")
    assert (await visits.to_arrow()).to_pylist() == [{"person": 2, "day": "c"}]
    with pytest.raises(NotFoundError):
        await client.dataset("people@1")


async def test_mistakes_are_named_before_anything_is_queued(
    client: AsyncClient, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n1\n")
    kits = len([kit async for kit in client.kits()])
    for arguments, options, field in (
        ((file,), {"rules": ["1 +"]}, "spec.tables[0].rules[0].expression"),
        ((file,), {"dedupe": "first"}, "spec.tables[0].dedupe"),
        (("raw/none.csv",), {}, "spec.tables[0].source.files.file_names[0]"),
        ((file,), {"tables": [{"source": file}]}, "tables"),
        (({"job": "x", "files": "y"},), {}, "source.job"),
        ((), {}, "source"),
    ):
        with pytest.raises((InvalidArgumentError, NotFoundError)) as raised:
            await client.import_dataset("mistaken", *arguments, **options)
        assert raised.value.violations[0].field.startswith(field), raised.value
    assert len([kit async for kit in client.kits()]) == kits

    job = await client.import_dataset("mistaken", file, rules=["b > 0"])
    with pytest.raises(KitFailedError, match="there is no column `b`"):
        await client.wait(job.kit_id)
