"""What a query's job says when it fails."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow_services.core import files
from vistaflow_services.core.errors import NotFoundError, ServiceError
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.query import jobs
from vistaflow_services.query.submission import SECRET_BYTES, secret_path
from vistaflow_services.query.tables.catalog import FoundFile, FoundTable, to_json

JOB = "6f1c8a52-0000-4000-8000-000000000001"


@pytest.mark.parametrize("is_completed", [False, True])
def test_a_query_of_a_data_kit_names_its_tables_when_it_fails(
    is_completed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={tmp_path}")
    gone = FoundFile(locator="raw/gone.csv", size=1, version="1", partition=())
    table = FoundTable(name="gone", kind="files", target="raw/gone.csv", version="v", files=(gone,))
    spec = pb.QuerySpec(converted_query="SELECT 1", sources=to_json((table,)))
    key = bytes.fromhex(files.secret(secret_path(tmp_path), SECRET_BYTES))
    spec.signature = hmac.digest(key, spec.SerializeToString(deterministic=True), "sha256")
    artifacts = ArtifactStore(tmp_path / "artifacts")
    attempt = Attempt(
        kit_id=1,
        job_id=JOB,
        spec=spec,
        folder=artifacts.open_prefix(JOB, 1),
        artifacts=artifacts,
        completed=is_completed,
    )

    with pytest.raises(JobError if is_completed else ServiceError) as raised:
        jobs.run(attempt)

    if is_completed:
        assert isinstance(raised.value, JobError)
        (named,) = raised.value.details["tables"]
        assert (named["name"], named["fqn"]) == ("gone", table.fully_qualified_name)
    else:
        assert isinstance(raised.value, NotFoundError)
