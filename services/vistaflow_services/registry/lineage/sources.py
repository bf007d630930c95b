"""What one job used, by its spec; what cannot be read of a spec is left out."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow_services.core.names import dataset_reference, job_ids_in

IMPORTED: Final = "dataset "
"""What the origin of known points begins with that come from a dataset."""

QUERIED: Final = "vistaflow.dataset."
"""What the name of a table that a query reads begins with, if it is of a dataset."""

_MESSAGES: Final[Mapping[str, type[Message]]] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        doe_pb2.DoeSpec,
        ingestion_pb2.ConvertJsonRequest,
        ingestion_pb2.ConvertSpec,
        ingestion_pb2.DeliverSpec,
        ingestion_pb2.ImportSpec,
    )
}


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A row of the query `lineage_jobs`."""

    job_id: uuid.UUID
    kit_id: int
    name: str
    job_type: str
    status: str
    created_at: datetime
    ended_at: datetime
    depends_on: Sequence[str]
    spec_type: str
    spec: bytes
    result: Any
    project: str
    queried: Any
    """Of a query: the tables that it reads."""
    dataset: str | None
    version: int | None
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class DatasetUse:
    """A version of a dataset that a job used."""

    project: str
    name: str
    version: int
    """0: the latest one of its time."""


@dataclass(kw_only=True)
class Sources:
    """What a job used."""

    job_ids: set[str] = field(default_factory=set)
    """Beside those that it depends on in its kit."""
    datasets: list[DatasetUse] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def sources_of(row: JobRow) -> Sources:
    """What a job used."""
    sources = Sources(job_ids=job_ids_in(row.spec) - {str(row.job_id)})
    message = _message(row.spec_type, row.spec)
    match message:
        case doe_pb2.DoeSpec():
            for table in message.reuse.tables:
                _add(sources, row, table.origin.removeprefix(IMPORTED))
        case ingestion_pb2.ImportSpec():
            for part in message.tables:
                sources.files += part.source.files.file_names
                if part.source.HasField("dataset"):
                    _add(sources, row, part.source.dataset.dataset)
        case ingestion_pb2.ConvertSpec():
            sources.files += message.request.file_names
        case ingestion_pb2.ConvertJsonRequest():
            sources.files += message.file_names
        case ingestion_pb2.DeliverSpec():
            _add(sources, row, message.dataset)
    for table in row.queried if isinstance(row.queried, list) else ():
        name = str(table.get("fqn", "")) if isinstance(table, Mapping) else ""
        if name.startswith(QUERIED):
            parts = name.removeprefix(QUERIED).split(".")
            _add(sources, row, f"{'.'.join(parts[:2])}@{table.get('version') or 'latest'}")
    return sources


def _add(sources: Sources, row: JobRow, text: str) -> None:
    named = dataset_reference(text)
    if named is not None:
        # What an alias named at that time is not recorded: the latest version then is taken.
        use = DatasetUse(
            project=named.project_for(row.project), name=named.name, version=named.version
        )
        sources.datasets.append(use)


def _message(spec_type: str, spec: bytes) -> Message | None:
    """The spec of a job, or the request in its template."""
    kind, content = spec_type.rpartition("/")[2], spec
    try:
        if kind == common_pb2.JobTemplate.DESCRIPTOR.full_name:
            template = common_pb2.JobTemplate.FromString(spec)
            kind, content = template.request.TypeName(), template.request.value
        known = _MESSAGES.get(kind)
        return known.FromString(content) if known else None
    except DecodeError:
        return None
