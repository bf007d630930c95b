"""What the doctor reads of the answers of registries."""

from __future__ import annotations

import json

import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.cli.registries import findings_of

DISK = pb.CheckFinding(
    name="disk", state=pb.CHECK_STATE_WRONG, summary="full", fix="free some space"
)
OF_VERSION_0_1 = json.dumps({"state": "wrong", "found": "full", "fix": "free some space"})


@pytest.mark.parametrize(
    "info",
    [
        pb.GetServerInfoResponse(findings=[DISK], limits={"check.disk": "not read"}),
        pb.GetServerInfoResponse(limits={"check.disk": OF_VERSION_0_1, "retention": "all"}),
    ],
    ids=["this version", "version 0.1"],
)
def test_the_findings_of_a_registry_of_any_version_are_read(info: pb.GetServerInfoResponse) -> None:
    assert findings_of(info) == [DISK]


def test_findings_are_sorted_by_name() -> None:
    info = pb.GetServerInfoResponse(findings=[pb.CheckFinding(name="pool"), DISK])

    assert [finding.name for finding in findings_of(info)] == ["disk", "pool"]
