"""A kit in wire form: made in slices, and the same however it was made."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.domain import Job, Kit, StateRow, Status
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.reads.trees import SLICE_BYTES, TASK_BYTES, Tree

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB_ID = uuid.UUID(int=7)


def kit_of(tasks: int, metadata_json: str = "", spec_json: str = "") -> Kit:
    job = Job(
        job_id=JOB_ID,
        kit_id=1,
        name="doe",
        job_type="DOE",
        current_order=1,
        status=Status.RUNNING,
        created_at=NOW,
    )
    for number in range(tasks):
        job.tasks[f"t{number}"] = StateRow(
            revision=number + 2,
            batch=number + 2,
            kit_id=1,
            job_id=JOB_ID,
            job_type="DOE",
            task_name=f"t{number}",
            status=Status.RUNNING,
            current_order=1,
            attempt=0,
            seq=0,
            created_at=NOW,
            metadata_json=metadata_json,
        )
    return Kit(
        kit_id=1,
        name="k",
        spec_json=spec_json,
        created_at=NOW,
        updated_at=NOW,
        jobs={JOB_ID: job},
    )


@pytest.mark.parametrize(
    ("tasks", "metadata_json"), [(5, ""), (3_000, ""), (40, '{"note": "%s"}' % ("x" * 20_000))]
)
def test_a_tree_is_made_in_slices_of_a_bounded_size(tasks: int, metadata_json: str) -> None:
    tree = Tree(kit_of(tasks, metadata_json), 1)
    slices = sum(1 for _ in tree.encode())
    size = tasks * (TASK_BYTES // 4 + len(metadata_json))
    assert size // (SLICE_BYTES + 20_500) <= slices <= size // SLICE_BYTES + 1


def test_a_tree_made_in_slices_is_the_message_of_the_kit() -> None:
    kit = kit_of(300, '{"n": 1}', spec_json='{"deck": {"size": [1, 2.5, null]}}')
    wanted = translate.kit_to_proto(kit)
    tree = Tree(kit, 1)
    for _ in tree.encode():
        pass
    assert pb.Kit.FromString(tree.kit_bytes()) == wanted
    assert pb.Kit.FromString(Tree(kit, 1).kit_bytes()) == wanted
