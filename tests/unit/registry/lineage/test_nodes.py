"""What jobs made, as nodes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.lineage.nodes import node_of
from vistaflow_services.registry.lineage.sources import JobRow

FILE = {"uri": "artifact://jobs/a/1/x", "sha256": "ab"}
OTHER = {"uri": "artifact://jobs/b/1/y", "sha256": "cd"}


def row(job_type: str, result: Any) -> JobRow:
    now = datetime.now(UTC)
    return JobRow(
        job_id=uuid.uuid4(),
        kit_id=1,
        name="job",
        job_type=job_type,
        status="FINISHED",
        created_at=now,
        ended_at=now,
        depends_on=[],
        spec_type="",
        spec=b"",
        result=result,
        project="mine",
        queried=None,
        dataset="bench" if job_type == "IMPORT" else None,
        version=3 if job_type == "IMPORT" else None,
        digest="ef" if job_type == "IMPORT" else None,
    )


@pytest.mark.parametrize(
    ("job_type", "result", "kind", "name", "sha256"),
    [
        ("DOE", {"design": FILE, "evaluated_count": 8}, "DESIGN", "8 points", "ab"),
        ("ML_PREPROCESS", {"dataset": FILE}, "ROWS", "job", "ab"),
        ("ML_TRAIN", {"dataset": OTHER, "model": FILE}, "MODEL", "job", "ab"),
        (
            "OPTIMIZE",
            {"trials": FILE, "model": OTHER, "objective": "cost", "best": {"objective": 1.5}},
            "OPTIMUM",
            "cost = 1.5",
            "ab",
        ),
        (
            "DECK_COLLECTION",
            {"decks": [{"name": "amp", "version": "2", "deck_id": "ab", "uri": FILE["uri"]}]},
            "DECK",
            "amp 2",
            "ab",
        ),
        ("IMPORT", {"pinned": "mine.bench@3"}, "DATASET", "mine.bench@3", "ef"),
        ("DOE", None, "DESIGN", "job", ""),
        ("OPTIMIZE", {"best": {"objective": None}, "trials": 7}, "OPTIMUM", "job", ""),
    ],
)
def test_a_node_says_what_a_job_made(
    job_type: str, result: Any, kind: str, name: str, sha256: str
) -> None:
    node = node_of(row(job_type, result))
    assert pb.LineageKind.Name(node.kind) == f"LINEAGE_KIND_{kind}"
    assert (node.name, node.sha256) == (name, sha256)
