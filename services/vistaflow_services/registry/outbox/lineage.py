"""Jobs that move data as OpenLineage events (specification 2-0-2).

    job        run        inputs                             outputs
    QUERY      the query  its tables, with their versions    the stored result
    IMPORT     the job    files, results, other datasets     the tables of the new version
    CONVERT    the job    files                              the conversion

A run is a job; its id is the job's. It begins with START, or RUNNING if it was tried before, and
ends with COMPLETE, FAIL or ABORT. What a job was given may have been written by hand, so what
cannot be read of it is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow_services.core.errors import ConflictError
from vistaflow_services.core.work.templates import filled
from vistaflow_services.registry.outbox.events import MAX_REASON, event_id, timestamp

NAMESPACE: Final = "vistaflow"
PRODUCER: Final = "urn:vistaflow"
SPEC: Final = "https://openlineage.io/spec"
RUN_EVENT: Final = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
DATASET_EVENT: Final = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/DatasetEvent"

MAX_INPUTS: Final = 200
MAX_BYTES: Final = 512 * 1024
"""Largest event; a larger one leaves out its columns."""

_FACETS: Final = {
    "schema": "1-1-1/SchemaDatasetFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "sql": "1-0-1/SQLJobFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
}
_ENDS: Final = {"FINISHED": "COMPLETE", "FAILED": "FAIL", "CANCELED": "ABORT"}
_KINDS: Final = {"conversion": "conversion", "design": "job", "collection": "job"}

_TEMPLATE: Final = common_pb2.JobTemplate.DESCRIPTOR.full_name

Found = dict[str, Any]


def lineage_events(row: Sequence[Any]) -> Iterator[Found]:
    """The events of a row of the query `data_jobs`, as rows of the query `add_lineage`."""
    (revision, job_id, job_type, status, time, reason, attempt, project, spec, spec_type, job_spec,
     result, dataset, version, manifest, jobs) = row  # fmt: skip
    spec, result, job_spec = _mapping(spec), _mapping(result), bytes(job_spec)
    before = {name: _mapping(job) for name, job in _mapping(jobs).items()}
    if str(spec_type).endswith(_TEMPLATE):
        spec, job_spec = _of_flow(project, job_spec, before, result)
    run: Found = {"runId": str(job_id)}
    if status == "FAILED":
        message = {"message": reason[:MAX_REASON], "programmingLanguage": "SQL"}
        run["facets"] = _facets(errorMessage=message)
    event: Found = {
        "eventType": _ENDS.get(status) or ("START" if attempt <= 1 else "RUNNING"),
        "run": run,
    }
    if job_type == "QUERY":
        key = f"results:{job_id}"
        event |= _query(str(job_id), project, spec, result if status == "FINISHED" else {})
    elif job_type == "IMPORT":
        key, parts = _import(project, job_spec, before)
        event |= parts
        if dataset is not None:
            event["outputs"] = _tables(project, dataset, version, _mapping(manifest))
    else:
        key = f"conversion:{job_id}"
        event |= _conversion(str(job_id), job_spec, result)
    event["job"]["namespace"] = f"{NAMESPACE}.{project}"
    yield _row(revision, job_id, project, key, event["eventType"], time, RUN_EVENT, event)
    if dataset is not None and "register_as" in spec:
        for table in event["outputs"]:
            announced = {"dataset": table}
            yield _row(
                revision, job_id, project, key, "DATASET", time, DATASET_EVENT, announced,
                table["name"],
            )  # fmt: skip


def _row(
    revision: int,
    job_id: Any,
    project: str,
    key: str,
    event_type: str,
    time: Any,
    schema: str,
    event: Found,
    *more: str,
) -> Found:
    event |= {"eventTime": timestamp(time), "producer": PRODUCER, "schemaURL": schema}
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    if len(body) > MAX_BYTES:
        for table in [*event.get("inputs", ()), *event.get("outputs", ())]:
            for facet in ("schema", "columnLineage"):
                table["facets"].pop(facet, None)
        body = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return {
        "event_id": str(event_id("lineage", revision, event_type, *more)),
        "event_type": event_type,
        "project": project,
        "order_key": key,
        "body": body.replace("\\u0000", "\\ufffd"),
        "job_id": str(job_id),
    }


def _of_flow(
    project: str, data: bytes, before: Mapping[str, Found], result: Found
) -> tuple[Found, bytes]:
    """A job of a data kit: what is recorded of a query, and the spec of any other job.

    The tables of a query are published with its result, or with what it failed of; before its end
    those are known that earlier jobs made.
    """
    template = common_pb2.JobTemplate.FromString(data)
    # Figures of earlier jobs are no inputs.
    values = [value for value in template.values if value.key in ("", "pinned")]
    inputs = {
        name: {"job_id": _text(job.get("job_id")), "result": {"pinned": job.get("pinned")}}
        for name, job in before.items()
    }
    try:
        named = common_pb2.JobTemplate(request=template.request, values=values)
        request = filled(named, inputs)
    except ConflictError:  # an earlier job has published something else
        request = filled(common_pb2.JobTemplate(request=template.request), {})
    if isinstance(request, query_pb2.SubmitQueryRequest):
        sources = _list(result.get("tables")) or [
            _source(project, text) for text in request.tables.values() if text
        ]
        return {
            "user_query": request.user_query,
            "sources": sources,
            "lineage": result.get("lineage"),
        }, b""
    if isinstance(request, ingestion_pb2.ConvertJsonRequest):
        request = ingestion_pb2.ConvertSpec(request=request)
    return {}, request.SerializeToString()


def _source(project: str, text: str) -> Found:
    """A table of a query: a version of a dataset, or the result of another query by its id."""
    name, _, version = text.partition("@")
    if version:
        full = name if "." in name else f"{project}.{name}"
        return {"fqn": f"vistaflow.dataset.{full}", "version": version}
    return {"fqn": f'vistaflow.results.{project}."{text}"', "version": text}


def _query(job_id: str, project: str, spec: Found, result: Found) -> Found:
    """A query; its spec is what SubmitQuery records of it."""
    text = _text(spec.get("user_query"))
    sources = [_mapping(source) for source in _list(spec.get("sources"))[:MAX_INPUTS]]
    fields: Found = {}
    recorded = _mapping(spec.get("lineage"))
    for column, origins in _mapping(recorded.get("origins")).items():
        inputs = []
        for origin in _list(origins):
            if len(_list(origin)) == 2 and 0 <= int(origin[0]) < len(sources):
                name = _text(sources[int(origin[0])].get("fqn"))
                inputs.append({"namespace": NAMESPACE, "name": name, "field": _text(origin[1])})
        if inputs:
            fields[column] = {"inputFields": inputs}
    output = _table(
        f'vistaflow.results.{project}."{job_id}"',
        version=job_id,
        schema=_list(recorded.get("columns")),
    )
    if fields:
        output["facets"] |= _facets(columnLineage={"fields": fields})
    if "rows" in result:
        figures = {"rowCount": int(result["rows"]), "size": int(result.get("bytes", 0))}
        output["outputFacets"] = _facets(outputStatistics=figures)
    return {
        "job": {
            "name": f"query.{hashlib.sha256(text.encode()).hexdigest()[:16]}",
            "facets": _facets(sql={"query": text}),
        },
        "inputs": [
            _table(_text(source.get("fqn")), version=_text(source.get("version")))
            for source in sources
        ],
        "outputs": [output],
    }


def _import(project: str, data: bytes, jobs: Mapping[str, Found]) -> tuple[str, Found]:
    """An import, by its spec; what is no ImportSpec has no inputs."""
    spec = ingestion_pb2.ImportSpec()
    try:
        spec.ParseFromString(data)
    except DecodeError:
        spec.Clear()
    inputs: dict[str, Found] = {}
    if spec.conversion:
        job_id = _id(spec.conversion, jobs)
        inputs[job_id] = _table(f'vistaflow.conversion."{job_id}"')
    for table in spec.tables:
        kind = table.source.WhichOneof("source") or ""
        if kind == "files":
            for name in table.source.files.file_names:
                inputs[name] = _table(f'vistaflow.files."{name}"')
        elif kind == "dataset":
            name, _, version = table.source.dataset.dataset.partition("@")
            full = name if "." in name else f"{project}.{name}"
            inputs[full] = _table(f"vistaflow.dataset.{full}", version=version)
        elif kind:
            named = getattr(table.source, kind)
            job_id = _id(named.job_id, jobs)
            target = f"{job_id}/{named.table}" if named.table else job_id
            inputs[target] = _table(
                f'vistaflow.results.{project}."{job_id}"'
                if kind == "query"
                else f'vistaflow.{_KINDS[kind]}."{target}"'
            )
    name = f"{project}.{spec.dataset}"
    return f"dataset:{name}", {
        "job": {"name": f"import.{spec.dataset}"},
        "inputs": list(inputs.values())[:MAX_INPUTS],
        "outputs": [_table(f"vistaflow.dataset.{name}")],
    }


def _id(reference: str, jobs: Mapping[str, Found]) -> str:
    """The id of a job that is named by its name in the kit, or by its id."""
    return _text(jobs[reference].get("job_id")) if reference in jobs else reference


def _tables(project: str, dataset: str, version: int, manifest: Found) -> list[Found]:
    """The tables of a version, by its manifest."""
    tables = [_mapping(table) for table in _list(manifest.get("tables"))]
    full = f"vistaflow.dataset.{project}.{dataset}"
    return [
        _table(
            f"{full}.{table.get('name')}" if len(tables) > 1 else full,
            version=str(version),
            schema=_list(table.get("columns")),
        )
        for table in tables
    ]


def _conversion(job_id: str, data: bytes, result: Found) -> Found:
    spec = ingestion_pb2.ConvertSpec()
    try:
        spec.ParseFromString(data)
    except DecodeError:
        spec.Clear()
    output = _table(f'vistaflow.conversion."{job_id}"', version=job_id)
    if "rows" in result:
        figures = {"rowCount": int(result["rows"]), "size": int(result.get("bytes", 0))}
        output["outputFacets"] = _facets(outputStatistics=figures)
    inputs = [_table(f'vistaflow.files."{name}"') for name in spec.request.file_names[:MAX_INPUTS]]
    if collection := spec.request.collection.job_id:
        inputs = [_table(f'vistaflow.job."{collection}"')]
    return {
        "job": {"name": f"convert.{spec.request.output_file_name or job_id}"},
        "inputs": inputs,
        "outputs": [output],
    }


def _table(name: str, *, version: str = "", schema: Sequence[Any] = ()) -> Found:
    facets: Found = {}
    if version:
        facets |= _facets(version={"datasetVersion": version})
    fields = [
        {"name": _text(column.get("name")), "type": _text(column.get("type"))}
        for column in map(_mapping, schema)
    ]
    if fields:
        facets |= _facets(schema={"fields": fields})
    return {"namespace": NAMESPACE, "name": name, "facets": facets}


def _facets(**facets: Found) -> Found:
    return {
        name: {"_producer": PRODUCER, "_schemaURL": _schema_url(name), **content}
        for name, content in facets.items()
    }


def _schema_url(facet: str) -> str:
    """Where the definition of a facet is."""
    version, _, definition = _FACETS[facet].partition("/")
    return f"{SPEC}/facets/{version}/{definition}.json#/$defs/{definition}"


def _mapping(value: Any) -> Found:
    return dict(value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
