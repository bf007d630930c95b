"""What jobs used, by their specs."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow_services.registry.lineage.sources import DatasetUse, JobRow, Sources, sources_of

OTHER = str(uuid.uuid4())
IMPORT = ingestion_pb2.ImportSpec(
    dataset="b",
    tables=[
        {"source": {"files": {"file_names": ["raw/a.csv"]}}},
        {"source": {"dataset": {"dataset": "a@2"}}},
        {"source": {"query": {"job_id": OTHER}}},
    ],
)
IMPORTED = Sources(
    job_ids={OTHER},
    datasets=[DatasetUse(project="mine", name="a", version=2)],
    files=["raw/a.csv"],
)


def row(job_type: str, spec: Message, queried: Any = None) -> JobRow:
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
        spec_type=f"type.googleapis.com/{spec.DESCRIPTOR.full_name}",
        spec=spec.SerializeToString(),
        result={},
        project="mine",
        queried=queried,
        dataset=None,
        version=None,
        digest=None,
    )


def test_an_import_used_files_versions_of_datasets_and_jobs() -> None:
    assert sources_of(row("IMPORT", IMPORT)) == IMPORTED


def test_the_request_in_a_template_of_a_data_kit_is_read() -> None:
    template = common_pb2.JobTemplate()
    template.request.Pack(IMPORT)
    assert sources_of(row("IMPORT", template)) == IMPORTED


@pytest.mark.parametrize("is_template", [True, False])
def test_a_conversion_used_files(is_template: bool) -> None:
    request = ingestion_pb2.ConvertJsonRequest(file_names=["raw/x.json", "upload:1"])
    spec: Message = ingestion_pb2.ConvertSpec(request=request)
    if is_template:
        spec = common_pb2.JobTemplate()
        spec.request.Pack(request)
    assert sources_of(row("CONVERT", spec)).files == ["raw/x.json", "upload:1"]


def test_a_design_used_kits_and_datasets() -> None:
    spec = doe_pb2.DoeSpec(deck="collect")
    spec.reuse.kits.add(kit_id=3, job_ids=[OTHER])
    spec.reuse.tables.add(origin="dataset theirs.bench@4")
    used = [DatasetUse(project="theirs", name="bench", version=4)]
    assert sources_of(row("DOE", spec)) == Sources(job_ids={OTHER}, datasets=used)


def test_a_query_used_the_versions_that_its_kit_recorded() -> None:
    queried = [
        {"fqn": "vistaflow.dataset.mine.a.table", "version": "7"},
        {"fqn": "vistaflow.dataset.mine.b"},
        {"fqn": f'vistaflow.results.mine."{OTHER}"'},
        "no table",
    ]
    used = sources_of(row("QUERY", query_pb2.SubmitQueryRequest(), queried))
    assert used.datasets == [
        DatasetUse(project="mine", name="a", version=7),
        DatasetUse(project="mine", name="b", version=0),
    ]


def test_a_spec_that_cannot_be_read_has_no_sources() -> None:
    broken = row("IMPORT", IMPORT)
    broken = JobRow(**{**vars(broken), "spec": b"\xff\xff"})
    assert sources_of(broken) == Sources()
