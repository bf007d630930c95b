"""Values of earlier jobs are put into requests as values, of the type that is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow_services.core.errors import ConflictError
from vistaflow_services.core.work.templates import filled

TEXT = 'x" or 1=1; --'


def template(request: Any, *values: tuple[str, str, str]) -> common_pb2.JobTemplate:
    entries = [
        common_pb2.JobValue(field=field, job="before", key=key, type=kind)
        for field, key, kind in values
    ]
    message = common_pb2.JobTemplate(values=entries)
    message.request.Pack(request)
    return message


def inputs(**result: Any) -> dict[str, dict[str, Any]]:
    return {"before": {"job_id": "an id", "result": result}}


def test_values_go_into_fields_of_lists_and_maps() -> None:
    query = query_pb2.SubmitQueryRequest(user_query='select :n from "a.dataset"')
    query.parameters.add(name="n", type="BIGINT")
    query.tables["a.dataset"] = ""
    made: Any = filled(
        template(
            query,
            ("parameters[0].value", "rows", "BIGINT"),
            ("tables[a.dataset]", "pinned", "VARCHAR"),
            ("limit", "best.count", "BIGINT"),
        ),
        inputs(rows=12, pinned=TEXT, best={"count": 3.0}),
    )
    assert (made.parameters[0].value, made.tables["a.dataset"], made.limit) == ("12", TEXT, 3)
    assert made.user_query == query.user_query

    spec = ingestion_pb2.ImportSpec()
    spec.tables.add().source.query.SetInParent()
    made = filled(template(spec, ("tables[0].source.query.job_id", "", "VARCHAR")), inputs())
    assert made.tables[0].source.query.job_id == "an id"


@pytest.mark.parametrize(
    ("field", "kind", "value", "reason"),
    [
        ("limit", "BIGINT", None, "NO_VALUE"),
        ("limit", "BIGINT", True, "WRONG_VALUE"),
        ("limit", "BIGINT", "12", "WRONG_VALUE"),
        ("limit", "BIGINT", 1.5, "WRONG_VALUE"),
        ("limit", "BIGINT", 2**70, "WRONG_VALUE"),
        ("user_query", "VARCHAR", 1, "WRONG_VALUE"),
        ("no_field", "VARCHAR", "a", "WRONG_VALUE"),
        ("parameters[3].value", "VARCHAR", "a", "WRONG_VALUE"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_field(
    field: str, kind: str, value: Any, reason: str
) -> None:
    request = template(query_pb2.SubmitQueryRequest(), (field, "value", kind))
    with pytest.raises(ConflictError) as raised:
        filled(request, inputs(value=value))
    assert raised.value.reason == reason
    assert field in raised.value.message
