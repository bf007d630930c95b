"""What the owner of an external job publishes need not be what those expect who read it."""

from __future__ import annotations

from typing import Any

import pytest
from attacking import Code, Outcome, Suite, methods
from google.protobuf import struct_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

TYPES = ("DECK_COLLECTION", "DOE", "ML_PREPROCESS", "ML_SCALE", "ML_TRAIN", "ML_TEST", "OPTIMIZE")

FILE = {"uri": "file:jobs/x/1/rows.parquet", "sha256": "00", "name": "rows", "size_bytes": 1}
ODD_FILE = {"uri": "../../etc/passwd", "sha256": 7, "name": None, "size_bytes": "many"}
KEYS = (
    "design", "space", "deck_id", "deck_uri", "parameters", "responses", "constraints", "generator",
    "generator_version", "seed", "size", "evaluated_count", "failed_count", "quality", "plots",
    "dataset", "scaler", "model", "rows", "report", "trials", "best", "design_best", "goals",
    "comparisons", "evaluations", "kit_id", "decks", "fixed", "hyperparameters", "row_count",
)  # fmt: skip

VALUES: dict[str, Any] = {
    "files of nowhere": FILE,
    "files that cannot be": ODD_FILE,
    "texts": "a",
    "numbers": 1e308,
    "lists": ["a", 1, None],
    "nulls": None,
    "objects": {"a": {"b": []}},
    "lists of objects": [{"name": "a"}],
}

RESULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "another key": {"note": "by hand"},
    **{name: {key: value for key in KEYS} for name, value in VALUES.items()},
}


OF_ONE_JOB = {"ListTrials", "GetConversion", "ListArtifacts", "ListDatasetVersions"}
"""Calls with pages that ask for what one job made; they may refuse it."""


async def finished_jobs(stub: Any, result: dict[str, Any]) -> list[str]:
    """Ids of external jobs of every type that published a result."""
    jobs = [pb.NewJob(name=each.lower(), job_type=f"JOB_TYPE_{each}") for each in TYPES]  # type: ignore[arg-type]
    kit = (await stub.CreateKit(pb.CreateKitRequest(name="by hand", jobs=jobs))).kit
    ids = [job.job_id for job in kit.jobs]
    metadata = struct_pb2.Struct()
    metadata.update({"result": result})
    for status, told in ((common.STATUS_RUNNING, None), (common.STATUS_FINISHED, metadata)):
        states = [common.State(job_id=each, status=status, metadata=told) for each in ids]
        answer = await stub.AppendStates(pb.AppendStatesRequest(states=states))
        assert {each.verdict for each in answer.results} == {pb.VERDICT_ACCEPTED}
    return ids


def asking(job_id: str) -> list[tuple[Any, Any]]:
    """Every call of the stages that names a job, about this one."""
    calls = []
    for method in methods():
        if method.containing_service.name == "RegistryService":
            continue
        request = method.input_type._concrete_class()
        place = request.spec if "spec" in request.DESCRIPTOR.fields_by_name else request
        named = False
        for field in (
            "design_id",
            "design",
            "dataset",
            "scaler",
            "model",
            "model_id",
            "study_id",
            "job_id",
        ):
            kind = place.DESCRIPTOR.fields_by_name.get(field)
            if kind is not None and kind.message_type is None:
                setattr(place, field, job_id)
                named = True
        for field, value in (("goals", "minimize a"), ("response", "a")):
            if field in place.DESCRIPTOR.fields_by_name and named:
                setattr(place, field, value)
        if "points" in place.DESCRIPTOR.fields_by_name:
            place.points.add().update({"a": 1.0})
        if named or "page_token" in request.DESCRIPTOR.fields_by_name:
            calls.append((method, request))
    return calls


@pytest.mark.parametrize("name", RESULTS)
async def test_a_result_that_somebody_made_up_is_refused_and_ends_no_list(
    suite: Suite, name: str
) -> None:
    stub: Any = RegistryServiceStub(suite.channels["RegistryService"])
    ids = await finished_jobs(stub, RESULTS[name])
    wrong: list[str] = []
    for job_id, job_type in zip(ids, TYPES, strict=True):
        for method, request in asking(job_id):
            outcome: Outcome = await suite.call(method, request.SerializeToString())
            lists = (
                "page_token" in request.DESCRIPTOR.fields_by_name and method.name not in OF_ONE_JOB
            )
            if outcome.bad or (lists and outcome.code is not Code.OK):
                wrong.append(f"{method.name} of {job_type}: {outcome}")
    assert not wrong, "\n".join(wrong)
