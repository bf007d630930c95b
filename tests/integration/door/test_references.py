"""A job may refer to what its maker sees, and to nothing else."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from keys import Keys, new_kit

from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb

NEVER = "00000000-0000-4000-8000-000000000000"


def job(job_type: int, spec: Message) -> pb.NewJob:
    packed = any_pb2.Any()
    packed.Pack(spec)
    return pb.NewJob(job_type=job_type, spec=packed)  # type: ignore[arg-type]


def jobs_about(job_id: str) -> dict[str, pb.NewJob]:
    """Jobs of every stage that refer to a job by its id."""
    return {
        "run a design": job(2, doe_pb2.DoeSpec(design_id=job_id)),
        "prepare": job(3, ml_pb2.PreprocessSpec(design=job_id)),
        "scale": job(4, ml_pb2.ScaleSpec(dataset=job_id)),
        "test": job(6, ml_pb2.TestSpec(model=job_id)),
        "optimize": job(7, optimize_pb2.OptimizeDesignSpec(design=job_id)),
        "in capitals": job(3, ml_pb2.PreprocessSpec(design=job_id.upper())),
    }


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def test_a_job_of_another_project_cannot_be_referred_to(keys: Keys) -> None:
    theirs = (await new_kit(await keys.stub("EDITOR", "theirs"))).jobs[0].job_id
    mine = await keys.stub("EDITOR", "mine")
    admin = await keys.stub("ADMIN")
    kit = await new_kit(mine)

    told = {}
    for name, about in jobs_about(theirs).items():
        told[name] = [
            (await outcome(mine.CreateJob(pb.CreateJobRequest(job=about)))),
            (await outcome(mine.CreateJob(pb.CreateJobRequest(kit_id=kit.kit_id, job=about)))),
            (await outcome(mine.CreateKit(pb.CreateKitRequest(name="a", jobs=[about])))),
        ]
    absent = (grpc.StatusCode.NOT_FOUND, f"there is no job {theirs}")
    assert told == {name: [absent] * 3 for name in told}
    never = await outcome(mine.CreateJob(pb.CreateJobRequest(job=jobs_about(NEVER)["prepare"])))
    assert never == (grpc.StatusCode.NOT_FOUND, f"there is no job {NEVER}")
    about = jobs_about(theirs)["prepare"]
    assert await outcome(admin.CreateJob(pb.CreateJobRequest(job=about))) == (
        grpc.StatusCode.OK,
        "",
    )


@pytest.mark.parametrize("name", ["run a design", "prepare", "optimize"])
async def test_a_job_of_ones_own_can_be_referred_to(keys: Keys, name: str) -> None:
    mine = await keys.stub("EDITOR", "mine")
    own = (await new_kit(mine)).jobs[0].job_id

    made = await mine.CreateJob(pb.CreateJobRequest(job=jobs_about(own)[name]))

    assert made.job.kit_id


async def test_what_a_deck_holds_is_no_reference(keys: Keys) -> None:
    theirs = (await new_kit(await keys.stub("EDITOR", "theirs"))).jobs[0].job_id
    mine = await keys.stub("EDITOR", "mine")
    source = ingestion_pb2.DeckSource(archive=f"a file that says {theirs}".encode())
    spec = job(1, ingestion_pb2.CollectDecksSpec(sources=[source]))

    assert (await mine.CreateJob(pb.CreateJobRequest(job=spec))).job.kit_id
