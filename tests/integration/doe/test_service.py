"""The DOE service on a real registry: everything through gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import io
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.rpc import error_details_pb2

from tests.integration.stages import external, finished, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow.api.doe.v1 import doe_pb2_grpc as rpc
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.decks.deck import parse_deck, read_archive, shipped_deck
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.designs.journal import Journal
from vistaflow_services.designs.table import Results, result_table
from vistaflow_services.doe.__main__ import SERVICE
from vistaflow_services.doe.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Suite:
    """A registry and a DOE service, both serving."""

    doe: rpc.DoeServiceAsyncStub
    registry: RegistryClient
    home: Path

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
        yield Suite(doe=rpc.DoeServiceStub(channel), registry=registry, home=home)
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
    # What runs printed is in the file only: a log is no cell of a table.
    assert lines[0] == ",".join(name for name in table.column_names if name != "log")
    assert [line.split(",")[0] for line in lines[1:-1]] == ["2990", "2991", "2992", "2993", "2994"]


async def test_the_rows_of_a_design_under_way_are_read_as_far_as_they_are(
    suite: Suite,
) -> None:
    job = await external(suite.registry, "DOE")
    folder = suite.home / "artifacts" / "jobs" / job.job_id / "1"
    folder.mkdir(parents=True)

    async def read(**fields: Any) -> list[pb.ReadDesignResponse]:
        request = pb.ReadDesignRequest(design_id=job.job_id, allow_unfinished=True, **fields)
        return [chunk async for chunk in suite.doe.ReadDesign(request)]

    assert await read() == []
    with contextlib.closing(Journal(folder)) as journal:
        results = Results(
            responses={"y": np.array([4.0, np.nan])}, failures=[None, "TIMEOUT"],
            messages=["", "no result"], logs=["", "working"], seconds=np.array([0.5, 9.0]),
        )  # fmt: skip
        journal.write(result_table({"x": np.array([2.0, 3.0])}, results, [7, 2]))
        (chunk,) = await read()
        assert [row.row_id for row in chunk.rows] == [7, 2]
        assert dict(chunk.rows[0].responses) == {"y": 4.0}
        assert (chunk.rows[1].failure, chunk.rows[1].log) == ("TIMEOUT", "working")
        assert [row.row_id for row in (await read(offset=1))[0].rows] == [2]
        (csv,) = await read(format=pb.ROW_FORMAT_CSV)
        assert csv.data.decode().splitlines()[0].startswith("row_id,x.x,y.y,failure")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(format=pb.ROW_FORMAT_PARQUET)
    assert fields(caught) == ["allow_unfinished"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [chunk async for chunk in suite.doe.ReadDesign(pb.ReadDesignRequest(design_id=job.job_id))]
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


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


OWN = """\
name: own
simulator: python
entry: own.py:run
template: made.txt
parameters:
  - {name: Width, range: [1, 3], title: 폭}
  - {name: fast, type: boolean, default: true}
responses: [{name: Gain, unit: dB}]
"""
SOURCE = """\
import time
def run(Width, fast):
    print("width", Width)
    open("waves.csv", "w").write("t,v\\n")
    if Width > 2.5:
        raise RuntimeError("too wide")
    if not fast:
        time.sleep(600)
    return {"Gain": float(open("made.txt").read()) * 2}
"""


def own_deck(source: str = SOURCE, timeout: float = 300) -> bytes:
    yaml = f"{OWN}timeout: {timeout}\n"
    files = {"deck.yaml": yaml.encode(), "own.py": source.encode(), "made.txt": b"@Width@"}
    return parse_deck(files).to_archive()


async def test_a_point_is_tried_at_its_middle_with_what_it_was_given_and_printed(
    suite: Suite,
) -> None:
    tried = await suite.doe.TryPoint(pb.TryPointRequest(deck_archive=own_deck()))
    assert json_format.MessageToDict(tried.parameters) == {"Width": 2, "fast": 1}
    assert (dict(tried.responses), tried.failure) == ({"Gain": 4.0}, "")
    assert tried.log == "width 2.0"
    files = {file.path: (file.input, file.content) for file in tried.files}
    assert files["made.txt"] == (True, b"2.0")
    assert files["waves.csv"] == (False, b"t,v\n")
    assert tried.parameter_infos[0].title == "폭"


async def test_a_failed_point_is_no_error_but_has_its_reason(suite: Suite) -> None:
    request = pb.TryPointRequest(deck_archive=own_deck())
    request.parameters.update({"Width": 3})
    tried = await suite.doe.TryPoint(request)
    assert tried.failure == "CRASHED"
    assert tried.message == "RuntimeError: too wide (own.py:6)"
    assert tried.log.startswith("width 3.0\nTraceback")


async def test_a_row_of_a_design_is_tried(suite: Suite, design_id: str) -> None:
    tried = await suite.doe.TryPoint(pb.TryPointRequest(design_id=design_id, row_id=7))
    rows = [
        row
        async for chunk in suite.doe.ReadDesign(
            pb.ReadDesignRequest(design_id=design_id, offset=7, limit=1)
        )
        for row in chunk.rows
    ]
    assert tried.parameters == rows[0].parameters
    assert tried.responses


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, ["deck"]),
        ({"deck": "branin", "design_id": "x"}, ["deck"]),
        ({"deck": "branin", "parameters": {"x1": 99}}, ["parameters.x1"]),
        ({"deck": "branin", "parameters": {"x9": 1}}, ["parameters.x9"]),
    ],
)
async def test_a_point_that_cannot_be_tried_is_refused(
    suite: Suite, request_: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.doe.TryPoint(json_format.ParseDict(request_, pb.TryPointRequest()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(caught) == expected


async def test_a_try_ends_by_the_time_of_its_deck(suite: Suite) -> None:
    request = pb.TryPointRequest(deck_archive=own_deck(timeout=1))
    request.parameters.update({"fast": False})
    tried = await suite.doe.TryPoint(request)
    assert (tried.failure, tried.message) == ("TIMEOUT", "no result after 1 s")


async def test_a_canceled_try_ends_its_run(suite: Suite) -> None:
    request = pb.TryPointRequest(deck_archive=own_deck())
    request.parameters.update({"fast": False})
    scratch = suite.home / "run" / "tried"
    call = suite.doe.TryPoint(request)
    async with asyncio.timeout(120):
        while not list(scratch.glob("*/work/waves.csv")):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        call.cancel()
        while list(scratch.glob("run-*")):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_the_reasons_of_failed_points_are_kept_and_grouped(suite: Suite) -> None:
    library = DeckLibrary(suite.home / "artifacts" / "decks")
    deck = library.put(read_archive(own_deck(SOURCE.replace("time.sleep(600)", "pass"))))
    job = await suite.made(deck=deck.deck.digest, size=20, seed=1)
    answer = await suite.doe.EvaluateDesign(pb.EvaluateDesignRequest(design_id=job.job_id))
    done = await suite.finished(answer.job)
    design = (await suite.doe.GetDesign(pb.GetDesignRequest(design_id=done.job_id))).design
    (reason,) = design.reasons
    assert (reason.failure, reason.message) == ("CRASHED", "RuntimeError: too wide (own.py:6)")
    assert reason.count == design.failed_count > 0
    rows = [
        row
        async for chunk in suite.doe.ReadDesign(pb.ReadDesignRequest(design_id=done.job_id))
        for row in chunk.rows
    ]
    failed = next(row for row in rows if row.row_id == reason.row_id)
    assert failed.message == reason.message
    assert "Traceback" in failed.log
    assert all(bool(row.failure) == bool(row.message) for row in rows)


async def test_output_and_files_of_a_run_are_there_after_it(suite: Suite) -> None:
    library = DeckLibrary(suite.home / "artifacts" / "decks")
    parts = {"keep": "keep_files: true\n", "none": ""}
    for name, words in parts.items():
        source = SOURCE.replace("time.sleep(600)", f"print('{name}')")
        yaml = f"{OWN}timeout: 300\n{words}"
        files = {"deck.yaml": yaml.encode(), "own.py": source.encode(), "made.txt": b"@Width@"}
        deck = library.put(read_archive(parse_deck(files).to_archive())).deck
        job = await suite.made(deck=deck.digest, size=4, seed=1, parameters=[
            {"name": "Width", "low": 1, "high": 2}
        ])  # fmt: skip
        answer = await suite.doe.EvaluateDesign(pb.EvaluateDesignRequest(design_id=job.job_id))
        done = await suite.finished(answer.job)
        assert done.status == common_pb2.STATUS_FINISHED, done.reason
        chunks = [
            chunk
            async for chunk in suite.doe.ReadDesign(pb.ReadDesignRequest(design_id=done.job_id))
        ]
        row = chunks[0].rows[2]
        assert row.run_duration.ToTimedelta().total_seconds() > 0

        got = await suite.doe.GetRun(pb.GetRunRequest(design_id=done.job_id, row_id=2))
        assert dict(got.run.responses) == dict(row.responses)
        assert got.run.parameters == row.parameters
        assert got.run.log.startswith(f"width {row.parameters['Width']}")
        kept = [(file.path, file.content, file.input) for file in got.run.files]
        assert got.keeps_files is bool(words)
        assert kept == ([("waves.csv", b"t,v\n", False)] if words else [])
        # As of a trial of a study, by its values.
        request = pb.GetRunRequest(design_id=done.job_id, parameters=row.parameters)
        assert await suite.doe.GetRun(request) == got
        request.parameters["Width"] = 1.987
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await suite.doe.GetRun(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
