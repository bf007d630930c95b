"""The pipeline on a real registry, with a real DOE service beside it: everything through gRPC."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import json_format

from tests.integration.stages import refused, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.decks.deck import shipped_deck
from vistaflow_services.doe.__main__ import SERVICE as DOE
from vistaflow_services.doe.config import Config as DoeConfig
from vistaflow_services.pipeline.__main__ import SERVICE
from vistaflow_services.pipeline.config import Config
from vistaflow_services.suite.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

KIT = """\
name: cheapest beam
deck: welded_beam
seed: 7
design: {generator: sobol, size: 32}
goals:
  - minimize cost
  - deflection <= 0.1
optimize: {budget: 12, batch_size: 2}
"""
NETLIST = """\
* a divider
v1 in 0 1
r1 in out {@r@}
r2 out 0 1k
.control
op
let level = v(out)
print level
.endc
.end
"""
NGSPICE = """\
name: divider
version: "1"
description: A divider.
simulator: ngspice
template: divider.cir
parameters:
  - {name: r, range: [100, 10000]}
responses:
  - {name: level}
"""


@dataclass(frozen=True)
class Suite:
    """A registry and a pipeline, both serving."""

    pipeline: rpc.PipelineServiceAsyncStub
    registry: RegistryClient
    registry_address: str
    home: Path

    async def mistakes(self, kit_yaml: str, deck_archive: bytes = b"") -> dict[str, str]:
        """What ValidateKit finds, by field."""
        request = pb.ValidateKitRequest(kit_yaml=kit_yaml, deck_archive=deck_archive)
        found = await self.pipeline.ValidateKit(request)
        assert found.HasField("spec") == (not found.mistakes)
        return {each.field: each.description for each in found.mistakes}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home = tmp_path_factory.mktemp("home")
    registry = RegistryClient(module_registry)
    doe_config = DoeConfig(listen="127.0.0.1:0", warm=False)
    config = Config(listen="127.0.0.1:0")
    async with (
        stage_serving(DOE, doe_config, home=home, registry=module_registry),
        stage_serving(SERVICE, config, home=home, registry=module_registry) as channel,
    ):
        async with asyncio.timeout(120):
            while "doe" not in [each.name for each in (await registry.server_info()).services]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield Suite(
            pipeline=rpc.PipelineServiceStub(channel),
            registry=registry,
            registry_address=module_registry,
            home=home,
        )
    await registry.close()


async def test_a_kit_becomes_seven_jobs_in_order(suite: Suite) -> None:
    answer = await suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=KIT, actor="ann"))

    kit = await suite.registry.get_kit(answer.kit.kit_id)
    assert [
        (each.current_order, each.name, common_pb2.JobType.Name(each.job_type)[9:])
        for each in kit.jobs
    ] == [
        (1, "collect", "DECK_COLLECTION"),
        (2, "design", "DOE"),
        (3, "preprocess", "ML_PREPROCESS"),
        (4, "scale", "ML_SCALE"),
        (5, "train", "ML_TRAIN"),
        (6, "test", "ML_TEST"),
        (7, "optimize", "OPTIMIZE"),
    ]
    assert (kit.name, kit.actor, answer.revision) == ("cheapest beam", "ann", kit.revision)
    before = {each.name: each.current_order for each in kit.jobs}
    for job in kit.jobs:
        assert all(before[name] < job.current_order for name in job.depends_on)
    assert kit.spec["deck"]["deck_id"] == shipped_deck("welded_beam").digest
    assert kit.spec["units"]["cost"] == "USD"
    spec = optimize_pb2.OptimizeDesignSpec()
    assert kit.jobs[6].spec.Unpack(spec)
    assert (spec.budget, spec.batch_size, spec.seed) == (12, 2, 7)
    assert spec.goals == "minimize cost\ndeflection <= 0.1"


async def test_the_same_request_again_is_the_same_kit(suite: Suite) -> None:
    request = pb.RunKitRequest(kit_yaml=KIT, request_id=str(uuid.uuid4()))
    first, second = [await suite.pipeline.RunKit(request) for _ in range(2)]

    assert first.kit.kit_id == second.kit.kit_id
    assert not first.replayed
    assert second.replayed
    request.actor = "somebody else"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.pipeline.RunKit(request)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(("last", "count"), [("deck_collection", 1), ("doe", 2), ("ml_test", 6)])
async def test_a_kit_stops_after_any_stage(suite: Suite, last: str, count: int) -> None:
    kit_yaml = f"name: x\ndeck: branin\nstop_after: {last}\n"

    answer = await suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=kit_yaml))

    assert len(answer.kit.jobs) == count


async def test_file_and_message_are_the_same_kit(suite: Suite) -> None:
    spec = pb.KitSpec()
    json_format.ParseDict(
        {
            "name": "cheapest beam",
            "deck": {"name": "welded_beam"},
            "seed": "7",
            "design": {"generator": "GENERATOR_SOBOL", "size": 32},
            "goals": "minimize cost\ndeflection <= 0.1",
            "optimize": {"budget": 12, "batchSize": 2},
        },
        spec,
    )
    from_file, from_message = [
        await suite.pipeline.ValidateKit(request)
        for request in (pb.ValidateKitRequest(kit_yaml=KIT), pb.ValidateKitRequest(spec=spec))
    ]

    assert not from_file.mistakes
    assert from_file == from_message
    assert from_file.max_simulation_count == 32 + 12 + 1


async def test_defaults_are_told_before_anything_runs(suite: Suite) -> None:
    request = pb.ValidateKitRequest(kit_yaml="name: x\ndeck: branin\ngoals: minimize y\n")

    answer = await suite.pipeline.ValidateKit(request)

    assert not answer.mistakes
    assert answer.spec.design.generator == doe_pb2.GENERATOR_LHS_ESE
    assert (answer.spec.design.size, answer.spec.optimize.budget) == (20, 10)
    assert answer.spec.project == "default"


async def test_every_mistake_is_told_at_once_with_its_line_and_the_fix(suite: Suite) -> None:
    kit_yaml = (
        "name: ''\n"
        "deck: welded_beam\n"
        "project: No Good\n"
        "design: {size: 3, parameters: {hh: [1, 2]}}\n"
        "ml: {folds: 99}\n"
        "goals: minimize price\n"
        "optimize: {budget: -1}\n"
    )
    found = await suite.mistakes(kit_yaml)

    assert set(found) == {
        "kit.yaml:1 name",
        "kit.yaml:3 project",
        "kit.yaml:4 design.parameters.hh",
        "kit.yaml:5 ml.folds",
        "kit.yaml:6 goals",
        "kit.yaml:7 optimize.budget",
    }
    assert "did you mean" in found["kit.yaml:4 design.parameters.hh"]
    code, told = await refused(suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=kit_yaml)))
    assert (code, told) == (grpc.StatusCode.INVALID_ARGUMENT, found)


async def test_mistakes_name_the_file_as_its_caller_does(suite: Suite) -> None:
    request = pb.ValidateKitRequest(
        kit_yaml="name: x\ndeck: welded_beam\nsede: 3\ngoals: minimize price\n",
        kit_file="my beams/first.yaml",
    )
    answer = await suite.pipeline.ValidateKit(request)
    assert {mistake.field for mistake in answer.mistakes} == {
        "my beams/first.yaml:3 sede",
        "my beams/first.yaml:4 goals",
    }
    for name in ("x" * 201, "a\nb"):
        request.kit_file = name
        code, violations = await refused(suite.pipeline.ValidateKit(request))
        assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"kit_file"})


@pytest.mark.parametrize(
    ("line", "field", "told"),
    [
        ("design: {size: 3000000, generator: sobol}", "design.size", "3000000 is not from 1"),
        (
            "design: {size: 3000, generator: lhs_ese}",
            "design.size",
            "use `sobol` or `lhs` for more",
        ),
        ("design: {size: 6}", "design.size", "make at least"),
        ("design: {parameters: {h: [3, 1]}}", "design.parameters.h.low", ""),
        ("design: {parameters: {h: [1, 99]}}", "design.parameters.h.high", ""),
        ("design: {constraints: ['h >= 3', 'h <= 1']}", "design.constraints", "contradict"),
        ("design: {constraints: ['h + q <= 4']}", "design.constraints[0]", "q"),
        ("design: {generator: sobel}", "design.generator", "did you mean `sobol`"),
        ("design: {generator: full_factorial, levels: 200}", "design.levels", "at most 1000000"),
        ("goals: maximize price", "goals", "price"),
        ("goals: minimize cost; deflection <= 1; deflection >= 2", "goals", "deflection"),
        ("goals: minimize cost; minimize tau", "goals", "one objective"),
        ("ml: {responses: [cost, tao]}", "ml.responses[1]", "did you mean `tau`"),
        ("ml: {test_fraction: 1}", "ml.test_fraction", "0 to 0.9"),
        ("sede: 3", "sede", "did you mean `seed`"),
        ("seed: -1", "seed", "negative"),
        ("stop_after: ml", "stop_after", "unknown"),
        ("max_attempts: 1000", "max_attempts", "1 to 100"),
    ],
)
async def test_a_mistake_is_told_with_its_field(
    suite: Suite, line: str, field: str, told: str
) -> None:
    goals = "" if line.startswith("goals") else "goals: minimize cost\n"

    found = await suite.mistakes(f"name: x\ndeck: welded_beam\n{goals}{line}\n")

    at = 4 if goals else 3
    assert set(found) == {f"kit.yaml:{at} {field}"}
    assert told in found[f"kit.yaml:{at} {field}"]


@pytest.mark.parametrize(
    ("kit_yaml", "field"),
    [
        ("", "kit.yaml"),
        ("just text", "kit.yaml"),
        ("name: [", "kit.yaml"),
        ("name: x\nname: y\n", "kit.yaml"),
        ("name: x\n", "kit.yaml: deck"),
        ("name: x\ndeck: ./beside\n", "kit.yaml:2 deck"),
        ("name: x\ndeck: {path: ../../etc}\n", "kit.yaml:2 deck.path"),
        ("name: x\ndeck: nosuchdeck\n", "kit.yaml:2 deck"),
    ],
)
async def test_a_file_that_is_no_kit_is_told_so(suite: Suite, kit_yaml: str, field: str) -> None:
    found = await suite.mistakes(kit_yaml)

    assert len(found) == 1
    assert next(iter(found)).startswith(field)
    code, told = await refused(suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=kit_yaml)))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert told == found


async def test_a_request_without_a_kit_is_refused(suite: Suite) -> None:
    code, told = await refused(suite.pipeline.RunKit(pb.RunKitRequest()))
    assert (code, set(told)) == (grpc.StatusCode.INVALID_ARGUMENT, {"spec"})
    huge = pb.ValidateKitRequest(kit_yaml="#" * 300_000)
    code, _ = await refused(suite.pipeline.ValidateKit(huge))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_mistakes_of_a_deck_that_came_along_are_told_with_its_file(
    suite: Suite, tmp_path: Path
) -> None:
    from vistaflow._machine.archive import pack_deck

    (tmp_path / "deck.yaml").write_text(NGSPICE.replace("[100, 10000]", "[100, 10]"))
    (tmp_path / "divider.cir").write_text(NETLIST.replace("@r@", "@rr@"))

    found = await suite.mistakes("name: x\ndeck: ./divider\n", pack_deck(tmp_path))

    assert any(each.startswith("deck.yaml:7 parameters[0].range") for each in found)


async def test_a_sign_beside_a_negative_value_is_warned_of(suite: Suite, tmp_path: Path) -> None:
    from vistaflow._machine.archive import pack_deck

    (tmp_path / "deck.yaml").write_text(NGSPICE.replace("[100, 10000]", "[-2, 2]"))
    (tmp_path / "divider.cir").write_text(NETLIST.replace("{@r@}", "{3-@r@}"))
    request = pb.ValidateKitRequest(
        kit_yaml="name: x\ndeck: ./divider\ndesign: {size: 20}\ngoals: maximize level\n",
        deck_archive=pack_deck(tmp_path),
    )

    found = await suite.pipeline.ValidateKit(request)

    assert not found.mistakes
    (warning,) = [each for each in found.warnings if "minus sign" in each.description]
    assert warning.description.startswith("divider.cir:3: `@r@` is beside a minus sign")


async def test_a_kit_goes_on_in_another_deck_only_if_the_deck_fits_and_nothing_runs(
    suite: Suite,
) -> None:
    started = await suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=KIT))
    beam, bowl = (ingestion_pb2.DeckSource(name=name) for name in ("welded_beam", "branin"))
    bare = await suite.registry.create_kit(registry_pb2.CreateKitRequest(name="bare"))

    def retry(kit_id: int, deck: ingestion_pb2.DeckSource) -> Any:
        return refused(suite.pipeline.RetryKit(pb.RetryKitRequest(kit_id=kit_id, deck=deck)))

    code, found = await retry(started.kit.kit_id, bowl)
    assert (code, "ml.responses[0]" in found) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, _ = await retry(started.kit.kit_id, beam)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    code, _ = await retry(bare.kit.kit_id, beam)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    code, _ = await retry(10**6, beam)
    assert code is grpc.StatusCode.NOT_FOUND
    code, found = await retry(started.kit.kit_id, ingestion_pb2.DeckSource())
    assert (code, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, ["deck"])


async def test_a_kit_that_collected_no_deck_is_planned_again_as_a_new_kit(suite: Suite) -> None:
    started = await suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=KIT, actor="ann"))
    old = started.kit.kit_id
    await suite.registry.stub.CancelKit(registry_pb2.CancelKitRequest(kit_id=old))
    bowl = ingestion_pb2.DeckSource(name="branin")
    request = pb.RetryKitRequest(request_id=str(uuid.uuid4()), kit_id=old, deck=bowl, actor="bob")

    code, violations = await refused(suite.pipeline.RetryKit(request))
    assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["goals"])
    request.deck.CopyFrom(
        ingestion_pb2.DeckSource(archive=shipped_deck("welded_beam").to_archive())
    )
    answer = await suite.pipeline.RetryKit(request)
    again = await suite.pipeline.RetryKit(request)

    assert (answer.kit.kit_id > old, answer.retried_count, answer.replayed) == (True, 7, False)
    assert (again.kit.kit_id, again.replayed) == (answer.kit.kit_id, True)
    assert answer.deck_id == shipped_deck("welded_beam").digest
    kit, canceled = [await suite.registry.get_kit(each) for each in (answer.kit.kit_id, old)]
    assert (kit.name, kit.actor, canceled.status) == (
        canceled.name,
        "bob",
        common_pb2.STATUS_CANCELED,
    )
    assert [(job.name, job.job_type, job.depends_on) for job in kit.jobs] == [
        (job.name, job.job_type, job.depends_on) for job in canceled.jobs
    ]
    # All but the first, which has the new deck.
    assert [job.spec for job in kit.jobs][1:] == [job.spec for job in canceled.jobs][1:]
    assert kit.jobs[0].spec != canceled.jobs[0].spec


@asynccontextmanager
async def doe_without_programs(suite: Suite) -> AsyncIterator[str]:
    """Address of a DOE service that finds no program on its path."""
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vistaflow_services.doe",
        env={
            **os.environ,
            "PATH": "/nowhere",
            "VISTAFLOW_HOME": str(suite.home),
            "VISTAFLOW_REGISTRY": suite.registry_address,
            "VISTAFLOW_DOE_LISTEN": address,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield address
    finally:
        process.terminate()
        await process.wait()


async def test_a_simulator_that_is_missing_is_told_with_how_to_get_it(
    suite: Suite, tmp_path: Path
) -> None:
    kit_yaml = "name: x\ndeck: opamp\ngoals: maximize ugf\n"
    async with doe_without_programs(suite) as doe:
        config = Config(listen="127.0.0.1:0", doe=doe)
        async with stage_serving(
            SERVICE, config, home=tmp_path, registry=suite.registry_address
        ) as channel:
            stub: rpc.PipelineServiceAsyncStub = rpc.PipelineServiceStub(channel)
            async with asyncio.timeout(120):
                while True:
                    try:
                        found = await stub.ValidateKit(pb.ValidateKitRequest(kit_yaml=kit_yaml))
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.2)
            with pytest.raises(grpc.aio.AioRpcError, match="apt-get install ngspice") as caught:
                await stub.RunKit(pb.RunKitRequest(kit_yaml=kit_yaml))

    assert [each.field for each in found.mistakes] == ["kit.yaml:2 deck"], found.mistakes
    assert "the simulator ngspice is missing" in found.mistakes[0].description
    assert "apt-get install ngspice" in found.mistakes[0].description
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_no_doe_service_is_told_within_seconds(suite: Suite, tmp_path: Path) -> None:
    config = Config(listen="127.0.0.1:0", doe="127.0.0.1:1")
    async with stage_serving(
        SERVICE, config, home=tmp_path, registry=suite.registry_address
    ) as channel:
        stub: rpc.PipelineServiceAsyncStub = rpc.PipelineServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="DOE service does not answer") as caught:
            await stub.RunKit(pb.RunKitRequest(kit_yaml=KIT), timeout=60)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
