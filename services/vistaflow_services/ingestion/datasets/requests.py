"""Requests about datasets, checked in the caller's name before anything is queued."""

from __future__ import annotations

import asyncio
from typing import Any

from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import (
    ConflictError,
    FieldViolation,
    InvalidError,
    NotFoundError,
    ServiceError,
    Violations,
    field_error,
)
from vistaflow_services.core.names import is_dataset_name
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.datasets.erasure import MAX_KEYS
from vistaflow_services.datasets.manifest import Manifest, find_column
from vistaflow_services.ingestion.config import MAX_PURGE_SECONDS
from vistaflow_services.ingestion.datasets.registrar import manifest_of
from vistaflow_services.ingestion.datasets.row_sources import JOB_TYPES, Places, converted_tables
from vistaflow_services.ingestion.datasets.table_specs import NAME_HINT, check_key

_NAMES = {"files": "file_names", "dataset": "dataset"}
"""The field of a source that names what it is; `job_id` of all others."""

MAX_KEY_BYTES = 1 << 20
"""Bytes of all keys of a request: a spec has room for them."""


async def dataset_of(
    registry: RegistryClient, dataset: str, *, with_manifest: bool = True
) -> datasets_pb2.GetDatasetResponse:
    """A dataset that the caller sees, and the version that it names.

    Raises:
        NotFoundError: There is none.
    """
    request = datasets_pb2.GetDatasetRequest(dataset=dataset, with_manifest=with_manifest)
    return await registry.call(registry.datasets.GetDataset, request)


def full_name(answer: datasets_pb2.GetDatasetResponse) -> str:
    """The version that the registry answered, as `PROJECT.NAME@VERSION`."""
    return f"{answer.dataset.project}.{answer.dataset.name}@{answer.version.version}"


async def check_sources(
    spec: pb.ImportSpec, registry: RegistryClient, places: Places, *, expects: bool = False
) -> None:
    """Looks up the files, jobs and datasets that a request names.

    Args:
        spec: The request.
        registry: Knows jobs and datasets.
        places: Where files may be.
        expects: Whether those without a name are still to come.

    Raises:
        InvalidError: One violation for each that is malformed or of the wrong kind.
        NotFoundError: One of them is not there for the caller.
        ConflictError: A job is not FINISHED, or its result cannot be read.
    """
    violations, failures = Violations(), list[ServiceError]()
    named = [
        (f"spec.tables[{index}].source", table.source) for index, table in enumerate(spec.tables)
    ]
    if spec.conversion:
        job = pb.JobTable(job_id=spec.conversion)
        named.append(("spec", pb.RowSource(conversion=job)))
    for field, source in named:
        kind = source.WhichOneof("source")
        named_rows: Any = getattr(source, kind) if kind else None
        if expects and kind and not getattr(named_rows, _NAMES.get(kind, "job_id")):
            continue
        try:
            await _check_source(source, registry, places, field)
        except InvalidError as error:
            for violation in error.violations:
                violations.add(violation.field, violation.description)
            if not error.violations:
                violations.add(field, error.message)
        except (NotFoundError, ConflictError) as error:
            where = [FieldViolation(field=f"{field}.{kind}", description=error.message)]
            named_places = list(error.violations) or where
            failures.append(
                type(error)(error.message, reason=error.reason, violations=named_places)
            )
    violations.check()
    if failures:
        raise failures[0]


async def _check_source(
    source: pb.RowSource, registry: RegistryClient, places: Places, field: str
) -> None:
    kind = source.WhichOneof("source") or ""
    where = f"{field}.{kind}"
    if kind == "files":
        names, project = source.files.file_names, callers.current().project
        await asyncio.to_thread(places.inputs.find_all, names, project, f"{where}.file_names")
    elif kind == "dataset":
        answer = await dataset_of(registry, source.dataset.dataset)
        if answer.dataset.project != places.project:
            # A caller without a project sees it, but not the job, which is in the default one.
            raise field_error(
                f"{where}.dataset",
                f"is in project `{answer.dataset.project}`, and the job would be in "
                f"`{places.project}`; call with a token of that project",
            )
        if source.dataset.table:
            (await asyncio.to_thread(manifest_of, answer)).table(source.dataset.table)
    elif kind:
        named: pb.JobTable = getattr(source, kind)
        job = await registry.result(named.job_id, job_type=JOB_TYPES[kind], field=where)
        if kind == "conversion":
            tables = await asyncio.to_thread(converted_tables, job, places, where)
            if named.table and named.table not in [table.path for table in tables]:
                raise NotFoundError(f"{where}.table: the conversion has no table `{named.table}`")


def check_forget(request: pb.ForgetRecordsRequest) -> None:
    """Checks all of a request that can be known without its dataset; never repeats a key.

    Raises:
        InvalidError: One violation for each mistake.
    """
    violations = Violations()
    if not is_dataset_name(request.dataset):
        violations.add("dataset", NAME_HINT)
    if not 1 <= len(request.keys) <= MAX_KEYS:
        violations.add("keys", f"{len(request.keys):,} given; 1 to {MAX_KEYS:,} may be")
    size = sum(len(value.encode()) + 3 for key in request.keys for value in key.values)
    if size > MAX_KEY_BYTES:
        violations.add("keys", f"have {size:,} bytes; at most {MAX_KEY_BYTES:,} may be at once")
    check_key(violations, request.columns, "columns")
    if not 0 <= request.purge_after.seconds <= MAX_PURGE_SECONDS:
        violations.add("purge_after", "must be from 0 seconds to 365 days")
    violations.check()


def check_keys(request: pb.ForgetRecordsRequest, manifest: Manifest) -> None:
    """Checks a request against the latest version; never repeats a key.

    Raises:
        InvalidError: The table, a column or a key is not as the version has it.
    """
    table = manifest.table(request.table or manifest.tables[0].name)
    columns = tuple(request.columns) or table.primary_key
    violations = Violations()
    if not columns:
        violations.add("columns", f"table `{table.name}` has no primary key; name the columns")
    for index, name in enumerate(request.columns):
        try:
            find_column(table.columns, name, f"columns[{index}]")
        except InvalidError as error:
            violations.extend("", error)
    for index, key in enumerate(request.keys):
        if columns and len(key.values) != len(columns):
            violations.add(f"keys[{index}]", f"must have {len(columns)} values")
    violations.check()
