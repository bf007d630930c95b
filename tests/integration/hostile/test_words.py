"""What a worker says for people is made fit to be kept; it costs the worker nothing."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from attacking import Suite
from google.protobuf import any_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

ODD = "a\x00b\x1b[2J\u202e" + "x" * 10_000


async def test_odd_words_of_a_worker_cost_it_neither_its_lease_nor_its_stream(
    suite: Suite,
) -> None:
    stub: Any = RegistryServiceStub(suite.channels["RegistryService"])
    spec = any_pb2.Any(type_url="a/b", value=b"x")
    job = pb.NewJob(job_type=common.JOB_TYPE_QUERY, spec=spec)
    job_id = (await stub.CreateJob(pb.CreateJobRequest(job=job))).job.job_id
    call = stub.LeaseJobs()
    hello = pb.WorkerHello(worker="w", job_types=[common.JOB_TYPE_QUERY], capacity=1)
    await call.write(pb.LeaseJobsRequest(hello=hello))
    assert (await call.read()).HasField("welcome")
    assert (await call.read()).grant.job.job_id == job_id

    progress = common.Progress(phase=ODD, unit=ODD, message=ODD, completed=7, total=-1)
    sign = pb.AttemptProgress(job_id=job_id, attempt=1, progress=progress)
    stranger = pb.AttemptProgress(job_id=str(uuid.uuid4()), attempt=-5, progress=progress)
    async with asyncio.timeout(120):
        while True:
            said = pb.Heartbeat(attempts=[stranger, sign])
            await call.write(pb.LeaseJobsRequest(heartbeat=said))
            told = (await stub.GetJob(pb.GetJobRequest(job_id=job_id))).job.progress
            if told.completed == 7:
                break
            await asyncio.sleep(0.05)
    assert told.phase.startswith("a\ufffdb")
    assert (len(told.phase), len(told.unit), len(told.message)) == (100, 100, 500)

    release = pb.Release(job_id=job_id, attempt=1, reason=ODD, counts=True)
    await call.write(pb.LeaseJobsRequest(release=release))
    async with asyncio.timeout(120):
        while not (message := await call.read()).HasField("grant"):
            pass
    again = message.grant
    assert (again.job.job_id, again.job.attempt) == (job_id, 2)
    call.cancel()
