"""Lineage of the jobs of data kits, whose specs are completed when they start."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow_services.registry.outbox.lineage import lineage_events

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "integration/query/openlineage.json").read_text("utf-8")
)
JOB = "6f1c8a52-0000-4000-8000-000000000001"
PAGES = "6f1c8a52-0000-4000-8000-000000000002"
BEFORE = {"pages": {"job_id": PAGES, "pinned": None}, "shop": {"job_id": JOB, "pinned": "shop@3"}}


def event(
    job_type: str,
    request: Message,
    *values: tuple[str, str, str],
    status: str = "FINISHED",
    **result: Any,
) -> dict[str, Any]:
    """The event of a job of a data kit; values are field, job and key."""
    template = common_pb2.JobTemplate()
    template.request.Pack(request)
    for field, job, key in values:
        template.values.add(field=field, job=job, key=key, type="VARCHAR")
    row = (
        *(7, JOB, job_type, status, datetime(2026, 12, 1, tzinfo=UTC), "", 1, "default"),
        *({"jobs": {}}, "type.googleapis.com/vistaflow.api.common.v1.JobTemplate"),
        *(template.SerializeToString(), {"rows": 2, **result}, None, None, None, BEFORE),
    )
    (event,) = lineage_events(row)
    body: dict[str, Any] = json.loads(event["body"])
    jsonschema.validate(body, SCHEMA)
    return body


def test_an_import_names_what_an_earlier_job_collected() -> None:
    spec = ingestion_pb2.ImportSpec(dataset="whisky")
    spec.tables.add().source.collection.SetInParent()
    found = event("IMPORT", spec, ("tables[0].source.collection.job_id", "pages", ""))

    assert found["job"]["name"] == "import.whisky"
    assert [table["name"] for table in found["inputs"]] == [f'vistaflow.job."{PAGES}"']


def test_a_conversion_names_the_collection_that_it_reads() -> None:
    request = ingestion_pb2.ConvertJsonRequest(output_file_name="offers")
    request.collection.SetInParent()
    found = event("CONVERT", request, ("collection.job_id", "pages", ""))

    assert found["job"]["name"] == "convert.offers"
    assert [table["name"] for table in found["inputs"]] == [f'vistaflow.job."{PAGES}"']


def test_a_query_names_the_versions_that_earlier_jobs_made() -> None:
    request = query_pb2.SubmitQueryRequest(user_query='select * from "shop.dataset"')
    request.tables["shop.dataset"] = ""
    request.parameters.add(name="least", type="BIGINT")
    values = [("tables[shop.dataset]", "shop", "pinned"), ("parameters[0].value", "shop", "rows")]
    found = event("QUERY", request, *values)

    assert found["job"]["facets"]["sql"]["query"] == 'select * from "shop.dataset"'
    (table,) = found["inputs"]
    assert table["name"] == "vistaflow.dataset.default.shop"
    assert table["facets"]["version"]["datasetVersion"] == "3"


def test_a_query_that_ended_names_every_table_of_its_sql_and_where_its_columns_come_from() -> None:
    request = query_pb2.SubmitQueryRequest(
        user_query='select name, price as paid from "shop.dataset" join prices using (name)'
    )
    request.tables["shop.dataset"] = ""
    tables = [
        {"fqn": "vistaflow.dataset.default.shop", "version": "3:aa"},
        {"fqn": "vistaflow.dataset.default.prices", "version": "1:bb"},
    ]
    lineage = {
        "columns": [{"name": "name", "type": "VARCHAR"}, {"name": "paid", "type": "DOUBLE"}],
        "origins": {"name": [[0, "name"]], "paid": [[1, "price"]]},
    }
    pinned = ("tables[shop.dataset]", "shop", "pinned")
    found = event("QUERY", request, pinned, tables=tables, lineage=lineage)

    assert [table["name"] for table in found["inputs"]] == [table["fqn"] for table in tables]
    (output,) = found["outputs"]
    assert [field["name"] for field in output["facets"]["schema"]["fields"]] == ["name", "paid"]
    origins = output["facets"]["columnLineage"]["fields"]["paid"]["inputFields"]
    assert [(origin["name"], origin["field"]) for origin in origins] == [
        ("vistaflow.dataset.default.prices", "price")
    ]


def test_a_query_that_failed_names_every_table_as_well() -> None:
    request = query_pb2.SubmitQueryRequest(user_query="select cast(name as bigint) from prices")
    tables = [{"fqn": "vistaflow.dataset.default.prices", "version": "1:bb"}]
    failure = event("QUERY", request, status="FAILED", tables=tables)

    assert failure["eventType"] == "FAIL"
    assert [table["name"] for table in failure["inputs"]] == [tables[0]["fqn"]]
