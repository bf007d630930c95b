"""Datasets of another project are as absent as those that never were."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
from keys import Keys

from vistaflow.api.datasets.v1 import datasets_pb2 as pb

sys.path.insert(0, str(Path(__file__).parents[1] / "registry" / "datasets"))

from recording import Client, refusal

Code = grpc.StatusCode


async def test_datasets_are_of_their_project_alone(keys: Keys) -> None:
    admin, worker, mine, theirs = [
        Client(keys.channel(await keys.make(role, project)))
        for role, project in (
            ("ADMIN", ""), ("WORKER", ""), ("EDITOR", "mine"), ("EDITOR", "their.own"),
        )
    ]  # fmt: skip
    for project in ("mine", "their.own", "default"):
        job_id = await admin.job(project)
        await worker.record("whisky", {project: 1}, job_id=job_id, alias="best")
    await admin.datasets.UpdateDataset(pb.UpdateDatasetRequest(dataset="their.own.secret"))

    async def seen(client: Client, **fields: str) -> list[str]:
        answer = await client.datasets.ListDatasets(pb.ListDatasetsRequest(**fields))
        return [f"{dataset.project}.{dataset.name}" for dataset in answer.datasets]

    everything = ["default.whisky", "mine.whisky", "their.own.secret", "their.own.whisky"]
    assert await seen(admin) == everything
    assert await seen(mine) == await seen(mine, project="mine") == ["mine.whisky"]
    assert await seen(theirs) == everything[2:]
    assert (await refusal(seen(mine, project="their.own")))[0] is Code.NOT_FOUND
    for client, project in ((admin, "default"), (worker, "default"), (mine, "mine")):
        assert (await client.get("whisky@best")).dataset.project == project
    assert (await theirs.get("their.own.whisky@1")).dataset.project == "their.own"
    assert (await worker.get("mine.whisky")).version.version == 1

    stub = mine.datasets
    for method, request in (
        (stub.GetDataset, pb.GetDatasetRequest()),
        (stub.ListDatasetVersions, pb.ListDatasetVersionsRequest()),
        (stub.UpdateDataset, pb.UpdateDatasetRequest(description="a")),
        (stub.SetDatasetAlias, pb.SetDatasetAliasRequest(alias="a", version=1)),
        (stub.PinDatasetVersion, pb.PinDatasetVersionRequest(version=1)),
        (stub.DeleteDataset, pb.DeleteDatasetRequest()),
    ):
        outcomes = []
        for name in ("secret", "never"):
            request.dataset = f"their.own.{name}"
            code, reason = await refusal(method(request))
            outcomes.append((code, reason.replace(name, "NAME")))
        assert outcomes == [(Code.NOT_FOUND, "there is no dataset `their.own.NAME`")] * 2
    assert await seen(admin) == everything
