from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from google.protobuf import any_pb2, struct_pb2
from google.protobuf.duration_pb2 import Duration

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.rpc import pages
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import MAX_NEEDS_A_REQUEST, find_cycle
from vistaflow_services.registry.messages import requests, translate

DOE, TRAIN = common.JOB_TYPE_DOE, common.JOB_TYPE_ML_TRAIN


def encode(answer: Any) -> bytes:
    return b""


def job(name: str = "a", *needs: str, **fields: Any) -> pb.NewJob:
    return pb.NewJob(**({"name": name, "job_type": DOE, "depends_on": needs} | fields))


def kit(*jobs: pb.NewJob, **fields: Any) -> pb.CreateKitRequest:
    return pb.CreateKitRequest(**({"name": "kit", "jobs": jobs} | fields))


def struct(**fields: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(fields)
    return made


def rows(*states: common.State) -> pb.AppendStatesRequest:
    return pb.AppendStatesRequest(states=states)


def state(**fields: Any) -> common.State:
    valid = {"job_id": str(uuid.uuid4()), "status": common.STATUS_RUNNING}
    return common.State(**(valid | fields))


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        pytest.param(kit(name=""), ["name"], id="no-name"),
        pytest.param(kit(name="x" * 201), ["name"], id="long-name"),
        pytest.param(kit(name="a\x00b"), ["name"], id="nul-in-name"),
        pytest.param(kit(name="a\x1b[31m"), ["name"], id="escape-in-name"),
        pytest.param(kit(project="No Spaces"), ["project"], id="project"),
        pytest.param(kit(actor="a\nb"), ["actor"], id="actor"),
        pytest.param(kit(request_id="12"), ["request_id"], id="request-id"),
        pytest.param(kit(labels={"": "x"}), ["labels"], id="empty-label"),
        pytest.param(kit(labels={"k": "v" * 300}), ["labels[k]"], id="long-label"),
        pytest.param(kit(job(), job()), ["jobs[1].name"], id="names-twice"),
        pytest.param(kit(job(name="A b")), ["jobs[0].name"], id="bad-job-name"),
        pytest.param(kit(job(job_type=0)), ["jobs[0].job_type"], id="no-type"),
        pytest.param(kit(job(job_type=99)), ["jobs[0].job_type"], id="unknown-type"),
        pytest.param(
            kit(job(), job("b"), job("c", "x")), ["jobs[2].depends_on[0]"], id="unknown-need"
        ),
        pytest.param(kit(job("a", "b", "b"), job("b")), ["jobs[0].depends_on[1]"], id="twice"),
        pytest.param(kit(job("a", "a")), ["jobs[0].depends_on[0]"], id="itself"),
        pytest.param(
            kit(job("z"), job("a", "z", "b"), job("b", "a")),
            ["jobs[1].depends_on[1]"],
            id="circle",
        ),
        pytest.param(kit(job(max_attempts=101)), ["jobs[0].max_attempts"], id="attempts"),
        pytest.param(kit(job(priority=-101)), ["jobs[0].priority"], id="priority"),
        pytest.param(kit(job(timeout=Duration())), ["jobs[0].timeout"], id="no-time"),
        pytest.param(kit(job(current_order=-1)), ["jobs[0].current_order"], id="order"),
        pytest.param(
            kit(job(spec=any_pb2.Any(type_url="a/b", value=bytes(2**21 + 1)))),
            ["jobs[0].spec"],
            id="huge-spec",
        ),
        pytest.param(kit(job(spec=any_pb2.Any())), ["jobs[0].spec.type_url"], id="no-type-url"),
        pytest.param(kit(spec=struct(x="y" * 2**18)), ["spec"], id="huge-kit-spec"),
        pytest.param(
            kit(job(job_type=0, priority=999), name=""),
            ["name", "jobs[0].job_type", "jobs[0].priority"],
            id="all-mistakes-at-once",
        ),
    ],
)
def test_a_mistake_in_a_kit_is_told_under_its_field(
    request_: pb.CreateKitRequest, fields: list[str]
) -> None:
    with pytest.raises(InvalidError) as caught:
        requests.create_kit(request_, encode)
    assert sorted(each.field for each in caught.value.violations) == sorted(fields)


def chained(count: int) -> list[pb.NewJob]:
    """Jobs that each depend on all before."""
    names = [f"j{number}" for number in range(count)]
    return [job(name, *names[:place]) for place, name in enumerate(names)]


def test_the_dependencies_of_one_request_are_bounded_together() -> None:
    jobs = chained(632)
    count = sum(len(new.depends_on) for new in jobs)
    most = chained(633)[-1]
    del most.depends_on[MAX_NEEDS_A_REQUEST - count :]
    command = requests.create_kit(kit(*jobs, most), encode)
    assert sum(len(new.depends_on) for new in command.jobs) == MAX_NEEDS_A_REQUEST
    most.depends_on.append("j631")
    with pytest.raises(InvalidError) as caught:
        requests.create_kit(kit(*jobs, most), encode)
    (violation,) = caught.value.violations
    assert violation.field == "jobs"
    assert "200,001" in violation.description
    assert "CreateJob" in violation.description


@pytest.mark.parametrize("backwards", [False, True])
def test_dependencies_are_read_in_the_order_given(backwards: bool) -> None:
    jobs = chained(50)
    if backwards:
        jobs.reverse()
    command = requests.create_kit(kit(*jobs), encode)
    assert [list(new.depends_on) for new in command.jobs] == [list(new.depends_on) for new in jobs]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(rows(), "states", id="none"),
        pytest.param(rows(*[state()] * 1001), "states", id="too-many"),
        pytest.param(rows(state(), state(job_id="x")), "states[1].job_id", id="no-uuid"),
        pytest.param(rows(state(job_id="0" * 32)), "states[0].job_id", id="uuid-without-dashes"),
        pytest.param(rows(state(status=0)), "states[0].status", id="no-status"),
        pytest.param(rows(state(status=77)), "states[0].status", id="unknown-status"),
        pytest.param(rows(state(task_name="t" * 101)), "states[0].task_name", id="long-task"),
        pytest.param(rows(state(task_name="a\tb")), "states[0].task_name", id="tab-in-task"),
        pytest.param(rows(state(seq=-1)), "states[0].seq", id="negative-seq"),
        pytest.param(rows(state(attempt=-1)), "states[0].attempt", id="negative-attempt"),
        pytest.param(rows(state(reason="r" * 4097)), "states[0].reason", id="long-reason"),
        pytest.param(rows(state(reason="r\x00")), "states[0].reason", id="nul-in-reason"),
        pytest.param(
            rows(state(metadata=struct(x="y" * 2**16))), "states[0].metadata", id="metadata"
        ),
        pytest.param(rows(state(metadata=struct(x=float("nan")))), "states[0].metadata", id="nan"),
        pytest.param(
            rows(state(metadata=struct(x=["a\x00"]))), "states[0].metadata", id="nul-in-metadata"
        ),
    ],
)
def test_a_mistake_in_a_row_is_told_under_its_field(
    request_: pb.AppendStatesRequest, field: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        requests.append(request_, encode)
    assert [each.field for each in caught.value.violations] == [field]


def test_a_backslash_that_only_looks_like_a_nul_is_kept() -> None:
    command = requests.append(rows(state(metadata=struct(path="C:\\u0000"))), encode)
    assert json.loads(command.items[0].metadata_json) == {"path": "C:\\u0000"}


def test_defaults_are_filled_in() -> None:
    command = requests.create_kit(kit(pb.NewJob(job_type=TRAIN)), encode)
    (made,) = command.jobs
    assert (command.project, made.name, made.max_attempts, made.external) == (
        "default",
        "ml_train",
        3,
        True,
    )


def test_the_audit_trail_holds_long_bytes_by_their_hash() -> None:
    spec = any_pb2.Any(type_url="a/b", value=bytes(5000))
    asked = kit(job(spec=spec), labels={"k": "v"}, spec=struct(design={"size": 8}))
    request = requests.create_kit(asked, encode).request
    assert request is not None
    told = json.loads(request.data_json)
    assert told["jobs"][0]["spec"]["value"]["bytes"] == 5000
    assert (told["labels"], told["spec"]) == ({"k": "v"}, {"design": {"size": 8}})
    assert told["jobs"][0]["job_type"] == "JOB_TYPE_DOE"


def test_a_request_of_another_method_or_body_has_another_hash() -> None:
    def hashed(command: Any) -> str:
        return str(command.request.body_sha256)

    cancel, retry = pb.CancelKitRequest(kit_id=1), pb.RetryKitRequest(kit_id=1)
    assert hashed(requests.of_kit(c.CancelKit, cancel, encode)) != hashed(
        requests.of_kit(c.RetryKit, retry, encode)
    )
    again = requests.of_kit(c.CancelKit, pb.CancelKitRequest(kit_id=1), encode)
    assert hashed(again) == hashed(requests.of_kit(c.CancelKit, cancel, encode))


def test_a_token_is_good_for_its_own_filters_alone() -> None:
    asked = pb.ListKitsRequest(project="a", page_size=5)
    token = pages.encode(17, asked)
    found = Violations()
    follow = pb.ListKitsRequest(project="a", page_size=9, page_token=token)
    assert (pages.decode(follow, found), len(found)) == (17, 0)
    for other in (
        pb.ListKitsRequest(project="b", page_token=token),
        pb.ListJobsRequest(page_token=token),
        pb.ListKitsRequest(project="a", page_token="not-a-token"),
    ):
        found = Violations()
        assert pages.decode(other, found) is None
        assert [each.field for each in found] == ["page_token"]


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["b", "c"], "b": ["c"], "c": []}, []),
        ({"a": ["a"]}, ["a", "a"]),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, ["a", "b", "c", "a"]),
        ({str(n): [str(n + 1)] for n in range(5000)}, []),
    ],
)
def test_a_circle_of_dependencies_is_found(graph: dict[str, list[str]], cycle: list[str]) -> None:
    assert find_cycle(graph) == cycle


def test_every_word_of_the_domain_has_an_enum_value_and_back() -> None:
    assert len(translate.STATUSES) == len(common.Status.keys()) - 1
    assert len(translate.JOB_TYPES) == len(common.JobType.keys()) - 1
