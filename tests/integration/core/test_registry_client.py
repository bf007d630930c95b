"""The client of the registry against one that errs, vanishes and comes back."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from vistaflow_services.core.registry_client import RegistryClient, backoff

sys.path.insert(0, str(Path(__file__).parent))
from scripted_registry import ScriptedRegistry


@pytest.fixture
async def registry() -> AsyncIterator[ScriptedRegistry]:
    made = ScriptedRegistry()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(registry: ScriptedRegistry) -> AsyncIterator[RegistryClient]:
    made = RegistryClient(registry.address, actor="test")
    yield made
    await made.close()


def request() -> registry_pb2.CreateJobRequest:
    job = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_DOE)
    return registry_pb2.CreateJobRequest(job=job)


async def test_a_call_is_tried_again_with_the_same_request_id(
    registry: ScriptedRegistry, client: RegistryClient
) -> None:
    registry.faults = 3
    assert (await client.create_job(request())).job.job_type == common_pb2.JOB_TYPE_DOE
    ids = {each.request_id for each in registry.created}
    assert (len(registry.created), len(ids)) == (4, 1)
    assert uuid.UUID(ids.pop()).version == 4
    assert registry.created[0].actor == "test"


async def test_a_given_request_id_and_actor_are_kept(
    registry: ScriptedRegistry, client: RegistryClient
) -> None:
    mine = request()
    mine.request_id, mine.actor = str(uuid.uuid4()), "ann"
    await client.create_job(mine)
    assert registry.created == [mine]


async def test_a_call_survives_a_restart_of_the_registry(
    registry: ScriptedRegistry, client: RegistryClient
) -> None:
    await client.create_job(request())
    await registry.stop()
    waiting = asyncio.create_task(client.create_job(request()))
    await asyncio.sleep(1.0)
    assert not waiting.done()
    await registry.start()
    assert (await asyncio.wait_for(waiting, 60)).job.kit_id == 1


async def test_a_registry_that_stays_away_is_told_with_its_address(
    registry: ScriptedRegistry, client: RegistryClient
) -> None:
    await registry.stop()
    begin = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        await client.call(client.stub.CreateJob, request(), patience=1.0)
    assert str(caught.value) == f"the registry at {registry.address} does not answer"
    assert caught.value.reason == "REGISTRY_UNAVAILABLE"
    assert time.monotonic() - begin > 0.3


async def test_what_the_registry_refuses_is_raised_as_it_was_and_not_tried_again(
    registry: ScriptedRegistry, client: RegistryClient
) -> None:
    with pytest.raises(NotFoundError, match="no job x"):
        await client.get_job("x")
    registry.refuse = lambda row: True
    with pytest.raises(InvalidError, match="a row is malformed"):
        await client.append([common_pb2.State(task_name="t")])


async def test_only_the_result_of_a_finished_job_of_the_right_type_is_handed_out(
    registry: ScriptedRegistry, client: RegistryClient
) -> None:
    job = common_pb2.Job(job_id="j", job_type=common_pb2.JOB_TYPE_DOE, attempt=3)
    job.result.update({"size": 40, "ratio": 0.5, "names": ["a"], "nested": {"count": 2}})
    registry.jobs["j"] = job
    with pytest.raises(InvalidError, match="model_id: job j is a DOE job; give the id of a ML_T"):
        await client.result("j", job_type="ML_TRAIN", field="model_id")
    job.status = common_pb2.STATUS_RUNNING
    with pytest.raises(ConflictError, match="job j is RUNNING; it has no result before it is"):
        await client.result("j", job_type="DOE")
    job.status = common_pb2.STATUS_FINISHED
    found = await client.result("j", job_type="DOE")
    assert found.attempt == 3
    assert found.result == {"size": 40, "ratio": 0.5, "names": ["a"], "nested": {"count": 2}}
    assert isinstance(found.result["size"], int)


def test_back_off_grows_to_its_bound_and_is_not_the_same_for_all() -> None:
    waits = [[backoff(tried) for tried in range(60)] for _ in range(20)]
    assert all(0.05 <= each[0] <= 0.1 for each in waits)
    assert all(1.0 <= each[-1] <= 2.0 for each in waits)
    assert len({each[5] for each in waits}) > 10
    # A worker tries for as long as the registry is away.
    assert 1.0 <= backoff(5_000) <= 2.0
