"""Deliveries through gRPC, on real services: an alias moves only to a version that is good."""

from __future__ import annotations

import json
import os
from typing import Any

import obstore
import pyarrow.parquet as pq
import pytest

from tests.integration.ingestion.test_datasets import (  # type: ignore[import-not-found]
    Suite,
    moto,
    suite,
)
from tests.integration.stages import refused
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.registry_client import struct_to_dict
from vistaflow_services.stores.inputs import client_of
from vistaflow_services.stores.roots import Roots

pytestmark = pytest.mark.asyncio(loop_scope="module")

__all__ = ["moto", "suite"]


def whisky(dataset: str, file: str = "raw/whisky.csv") -> pb.ImportSpec:
    source = pb.RowSource(files=pb.RowFiles(file_names=[file]))
    rules = [pb.QualityRule(name="priced", expression="price > 0")]
    table = pb.ImportTable(source=source, primary_key=["id"], rules=rules)
    return pb.ImportSpec(dataset=dataset, tables=[table])


async def delivered(suite: Suite, **spec: Any) -> tuple[common_pb2.Job, dict[str, Any]]:
    request = pb.DeliverDatasetRequest(spec=pb.DeliverSpec(**spec))
    job = await suite.job((await suite.ingestion.DeliverDataset(request)).job)
    return job, struct_to_dict(job.result)


async def test_a_good_version_is_delivered_and_a_bad_one_changes_nothing(suite: Suite) -> None:
    await suite.imported(whisky("shop"))
    require = {"accepted": ">= 3", "rejected_share": "<= 0.5", "bytes": "> 0"}
    job, result = await delivered(
        suite, dataset="shop", require=require, output="raw/out/1", format=pb.TABLE_FORMAT_BOTH
    )

    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    assert (result["pinned"], result["alias"], result["rejected"]) == ("shop@1", "final", 2)
    assert (await suite.dataset("shop@final")).version.version == 1
    folder = suite.data / "out" / "1"
    assert pq.read_table(folder / "shop.parquet").column("id").to_pylist() == [1, 2, 4]
    assert "글렌피딕" in (folder / "shop.csv").read_text()
    listed = json.loads((folder / "shop.delivery.json").read_bytes())
    assert [(file["name"], file["rows"]) for file in listed["files"]] == [
        ("shop.csv", 3),
        ("shop.parquet", 3),
    ]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    (suite.data / "bad.csv").write_text("id,name,price\n1,a,-1\n2,b,-1\n3,c,5\n")
    await suite.imported(whisky("shop", "raw/bad.csv"))
    job, _ = await delivered(suite, dataset="shop@latest", require=require, output="raw/out/1")

    assert job.status == common_pb2.STATUS_FAILED
    assert "NOT_DELIVERED: accepted is 1, not >= 3" in job.reason
    assert "rejected_share is 0.666667, not <= 0.5; final stays shop@1" in job.reason
    assert (await suite.dataset("shop@final")).version.version == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    job, again = await delivered(
        suite, dataset="shop@1", output="raw/out/1", format=pb.TABLE_FORMAT_BOTH
    )
    assert again["former"] == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


async def test_a_version_is_delivered_to_a_bucket(suite: Suite) -> None:
    roots = Roots.parse(os.environ["VISTAFLOW_DATA_ROOTS"])
    lake = next((root for root in roots.visible("default") if root.folder is None), None)
    if lake is None:
        pytest.skip("needs moto")
    await suite.imported(whisky("lake_shop"))
    job, _ = await delivered(suite, dataset="lake_shop", output=f"{lake.url}/day", alias="day")

    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    place = roots.resolve("lake/day/lake_shop.csv", "default", "output")
    content = obstore.get(client_of(place, "output"), str(place.path)).bytes()
    assert "Lagavulin" in bytes(content).decode()
    assert (await suite.dataset("lake_shop@day")).version.version == 1


async def test_bad_deliveries_are_refused_with_every_mistake(suite: Suite) -> None:
    spec = pb.DeliverSpec(
        dataset="no such",
        alias="Final!",
        require={"accepted": "many", "rows": "> 1"},
        output="nowhere/x",
    )
    _, mistakes = await refused(suite.ingestion.DeliverDataset(pb.DeliverDatasetRequest(spec=spec)))
    assert set(mistakes) == {
        "spec.dataset",
        "spec.alias",
        "spec.require.accepted",
        "spec.require.rows",
        "spec.output",
    }
    code, _ = await refused(
        suite.ingestion.DeliverDataset(
            pb.DeliverDatasetRequest(spec=pb.DeliverSpec(dataset="absent"))
        )
    )
    assert code.name == "NOT_FOUND"
    checked = pb.DeliverDatasetRequest(spec=pb.DeliverSpec(), validate_only=True)
    assert not (await suite.ingestion.DeliverDataset(checked)).HasField("job")
