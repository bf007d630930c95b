"""What only the services know of a data kit: hosts, files, datasets and SQL, before it starts.

Each request is checked by the service that will run its job, in the name of the caller, as the call
for a single job checks it. What earlier jobs will publish is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ingestion.v1.ingestion_pb2_grpc import IngestionServiceStub
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.query.v1.query_pb2_grpc import QueryServiceStub
from vistaflow_services.core.errors import (
    ConflictError,
    FieldViolation,
    InvalidError,
    NotFoundError,
)
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.pipeline.flows.flow import Flow, FlowJob
from vistaflow_services.pipeline.services import address_of, asked

_NULLS: Mapping[str, str] = {"BIGINT": "0", "DOUBLE": "0", "BOOLEAN": "false"}
"""Values that stand for those to come."""


class Checks:
    """Asks the services.

    Args:
        registry: Knows where they are.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def mistakes(self, flow: Flow) -> list[tuple[FlowJob, list[FieldViolation]]]:
        """The mistakes of each job, in the fields of its request.

        Raises:
            UnavailableError: A service does not answer.
        """
        jobs = [job for job in flow.jobs.values() if job.word != "design"]
        names = {"query" if job.word == "query" else "ingestion" for job in jobs}
        addresses = {
            name: await address_of(self._registry, name, "check the jobs of the kit")
            for name in names
        }
        mistakes = await asyncio.gather(*(self._of_job(flow, job, addresses) for job in jobs))
        return list(zip(jobs, mistakes, strict=True))

    async def _of_job(
        self, flow: Flow, job: FlowJob, addresses: Mapping[str, str]
    ) -> list[FieldViolation]:
        try:
            if isinstance(job.request, query_pb2.SubmitQueryRequest):
                return await _of_query(flow, job, job.request, addresses["query"])
            method, request = _validation(job)
            await asked(addresses["ingestion"], IngestionServiceStub, method, request)
        except (InvalidError, NotFoundError, ConflictError) as error:
            text = error.message.removeprefix("spec.")
            return list(error.violations) or [FieldViolation(field="", description=text)]
        return []


def _validation(job: FlowJob) -> tuple[str, Message]:
    """The call that checks a request."""
    spec: Any = type(job.request)()
    spec.CopyFrom(job.request)
    match spec:
        case ingestion_pb2.CollectSpec():
            return "CollectPages", ingestion_pb2.CollectPagesRequest(spec=spec, validate_only=True)
        case ingestion_pb2.ConvertJsonRequest():
            spec.validate_only = True
            return "ConvertJson", spec
        case ingestion_pb2.DeliverSpec():
            return "DeliverDataset", ingestion_pb2.DeliverDatasetRequest(
                spec=spec, validate_only=True
            )
    if any(reference.field == "conversion" for reference in job.references):
        # Its tables are those of a conversion to come: as if the first one were imported.
        source = ingestion_pb2.RowSource(conversion=ingestion_pb2.JobTable())
        spec.tables.add(source=source)
    return "ImportDataset", ingestion_pb2.ImportDatasetRequest(spec=spec, validate_only=True)


async def _of_query(
    flow: Flow, job: FlowJob, request: query_pb2.SubmitQueryRequest, address: str
) -> list[FieldViolation]:
    """The mistakes of a query, whose tables may be to come."""
    expected = [*request.tables]
    for name in flow.before(job.name):
        other = flow.jobs[name].request
        if isinstance(other, ingestion_pb2.ImportSpec):
            expected.append(other.dataset)
    asking = query_pb2.ValidateQueryRequest(
        user_query=request.user_query,
        dialect=request.dialect,
        engine=request.engine,
        parameters=request.parameters,
        expected_tables=expected,
    )
    to_come = {reference.field for reference in job.references}
    for index, parameter in enumerate(asking.parameters):
        if f"parameters[{index}].value" in to_come:
            parameter.value = _NULLS.get(parameter.type, "")
    answer = await asked(address, QueryServiceStub, "ValidateQuery", asking)
    return [
        FieldViolation(
            field="user_query",
            description=(
                f"line {error.line}, column {error.column}: " * bool(error.line) + error.message
            ),
        )
        for error in answer.errors
    ]
