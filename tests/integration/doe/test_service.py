"""The DOE service on a real registry: everything through gRPC."""

from __future__ import annotations

import io
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.rpc import error_details_pb2

from tests.integration.stages import finished, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow.api.doe.v1 import doe_pb2_grpc as rpc
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.decks.deck import shipped_deck
from vistaflow_services.doe.__main__ import SERVICE
from vistaflow_services.doe.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Suite:
    """A registry and a DOE service, both serving."""

    doe: rpc.DoeServiceAsyncStub
    registry: RegistryClient

    async def finished(self, job: common_pb2.Job) -> common_pb2.Job:
        """The job once it has ended."""
        return await finished(self.registry, job)

    async def made(self, **design: Any) -> common_pb2.Job:
        """The finished job of a new design over the Branin function."""
        request = generate(**design)
        return await self.finished((await self.doe.GenerateDesign(request)).job)


def generate(deck: str = "branin", **design: Any) -> pb.GenerateDesignRequest:
    return json_format.ParseDict(
        {"deck": deck, "design": {"size": 20, "generator": "GENERATOR_SOBOL", **design}},
        pb.GenerateDesignRequest(),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home = tmp_path_factory.mktemp("home")
    registry = RegistryClient(module_registry)
    config = Config(listen="127.0.0.1:0", cores=2)
    async with stage_serving(SERVICE, config, home=home, registry=module_registry) as channel:
        yield Suite(doe=rpc.DoeServiceStub(channel), registry=registry)
    await registry.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def design_id(suite: Suite) -> str:
    """A finished design of 3000 points."""
    return (await suite.made(size=3000)).job_id


def fields(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> list[str]:
    """The fields that the error of a call names."""
    from grpc_status import rpc_status

    found: list[str] = []
    for each in rpc_status.from_call(caught.value).details:
        bad = error_details_pb2.BadRequest()
        if each.Unpack(bad):
            found += [violation.field for violation in bad.field_violations]
    return sorted(found)


async def test_a_design_is_made_run_told_and_read(suite: Suite) -> None:
    job = await suite.made(seed="5")
    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    design = (await suite.doe.GetDesign(pb.GetDesignRequest(design_id=job.job_id))).design
    deck = shipped_deck("branin")
    assert (design.deck_id, design.generator, design.seed) == (deck.digest, "sobol", 5)
    assert (design.size, design.evaluated_count) == (20, 0)
    assert [each.name for each in design.parameters] == deck.space.names
    assert "centred_discrepancy" in design.quality

    answer = await suite.doe.EvaluateDesign(pb.EvaluateDesignRequest(design_id=job.job_id))
    run = await suite.finished(answer.job)
    assert run.status == common_pb2.STATUS_FINISHED, run.reason
    assert {each.task_name for each in run.tasks} >= {"simulate", "summarize"}
    evaluated = (await suite.doe.GetDesign(pb.GetDesignRequest(design_id=run.job_id))).design
    assert (evaluated.evaluated_count, evaluated.failed_count) == (20, 0)
    assert [each.name for each in evaluated.plots] == ["design.png", "responses.png"]

    before, after = [
        [row async for chunk in suite.doe.ReadDesign(request) for row in chunk.rows]
        for request in (
            pb.ReadDesignRequest(design_id=job.job_id),
            pb.ReadDesignRequest(design_id=run.job_id),
        )
    ]
    assert [row.row_id for row in after] == list(range(20))
    assert [row.parameters for row in before] == [row.parameters for row in after]
    assert {len(row.responses) for row in before} == {0}
    assert {tuple(row.responses) for row in after} == {tuple(deck.response_names)}


async def test_rows_are_read_as_csv_and_as_the_file(suite: Suite, design_id: str) -> None:
    whole = pb.ReadDesignRequest(design_id=design_id, format=pb.ROW_FORMAT_PARQUET)
    data = b"".join([chunk.data async for chunk in suite.doe.ReadDesign(whole)])
    table = pq.read_table(io.BytesIO(data))
    assert table.num_rows == 3000
    part = pb.ReadDesignRequest(design_id=design_id, format=pb.ROW_FORMAT_CSV, offset=2990, limit=5)
    text = b"".join([chunk.data async for chunk in suite.doe.ReadDesign(part)]).decode()
    lines = text.split("\r\n")
    assert lines[0] == ",".join(table.column_names)
    assert [line.split(",")[0] for line in lines[1:-1]] == ["2990", "2991", "2992", "2993", "2994"]


async def test_the_same_request_again_is_the_same_job(suite: Suite) -> None:
    request = generate(seed="1")
    request.request_id = str(uuid.uuid4())
    first, second = [(await suite.doe.GenerateDesign(request)).job.job_id for _ in range(2)]
    assert first == second


async def test_every_mistake_is_told_before_anything_is_queued(suite: Suite) -> None:
    before = len((await suite.registry.list_jobs()).jobs)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.doe.GenerateDesign(
            generate(
                size=0, parameters=[{"name": "zz"}], constraints=["x1 <="], parameterLevels={"a": 2}
            )
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(caught) == [
        "design.constraints[0]",
        "design.parameter_levels",
        "design.parameters[0].name",
        "design.size",
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.doe.GenerateDesign(pb.GenerateDesignRequest())
    assert fields(caught) == ["deck", "design"]
    assert len((await suite.registry.list_jobs()).jobs) == before


async def test_decks_and_designs_that_are_not_there_are_not_found(suite: Suite) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="did you mean `branin`") as caught:
        await suite.doe.GenerateDesign(generate(deck="brannin"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    for design_id in (str(uuid.uuid4()), "../etc", ""):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await suite.doe.GetDesign(pb.GetDesignRequest(design_id=design_id))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await suite.doe.EvaluateDesign(pb.EvaluateDesignRequest(design_id=design_id))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_read_that_makes_no_sense_names_its_fields(suite: Suite, design_id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in suite.doe.ReadDesign(
            pb.ReadDesignRequest(design_id=design_id, offset=-1, limit=-1)
        ):
            pass
    assert fields(caught) == ["limit", "offset"]


async def test_an_evaluation_with_a_wrong_policy_names_its_fields(
    suite: Suite, design_id: str
) -> None:
    request = pb.EvaluateDesignRequest(
        design_id=design_id, evaluation=pb.EvaluationSpec(max_failed_fraction=2)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.doe.EvaluateDesign(request)
    assert fields(caught) == ["evaluation.max_failed_fraction"]


async def test_generators_and_simulators_are_listed(suite: Suite) -> None:
    generators = await suite.doe.ListGenerators(pb.ListGeneratorsRequest())
    assert [each.name for each in generators.generators] == [
        "full_factorial",
        "lhs",
        "lhs_ese",
        "sobol",
        "halton",
    ]
    simulators = await suite.doe.ListSimulators(pb.ListSimulatorsRequest())
    assert "function" in {each.name for each in simulators.simulators if each.available}
