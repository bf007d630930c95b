"""The kinds of jobs of a data kit: the request that each fills, and what it publishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow_services.pipeline.translate import DESIGN, OPTIMIZE

TABLE: Final = "table"
"""The type of a value that stands for rows; its key is empty: the job itself is referred to."""

DATASET: Final = "dataset"
"""The type of a value that stands for a version of a dataset."""

WHOLE, NUMBER, TEXT, FLAG = "BIGINT", "DOUBLE", "VARCHAR", "BOOLEAN"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A value that a job publishes."""

    type: str
    """`TABLE`, `DATASET`, or a type as SQL names it."""

    key: str = ""
    """The key of the job's result; empty for the job's id."""

    stage: str = ""
    """Of a design: the stage that publishes it."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of job."""

    job_type: str
    request: type[Message]
    values: Mapping[str, Published]
    source: str = ""
    """The field of `RowSource` for its rows."""

    hidden: frozenset[str] = frozenset()
    """Fields of the request that a file does not have."""


def _wholes(*keys: str) -> dict[str, Published]:
    return {key: Published(type=WHOLE, key=key) for key in keys}


KINDS: Final[Mapping[str, Kind]] = {
    "collect": Kind(
        job_type="COLLECT",
        request=ingestion_pb2.CollectSpec,
        values={
            "result": Published(type=TABLE),
            **_wholes("pages", "rows", "unchanged", "failed", "bytes"),
        },
        source="collection",
    ),
    "convert": Kind(
        job_type="CONVERT",
        request=ingestion_pb2.ConvertJsonRequest,
        values={
            "tables": Published(type=TABLE),
            **_wholes("records", "rows", "files", "bytes"),
        },
        source="conversion",
        hidden=frozenset({"request_id", "validate_only", "aes256cbckey", "iv"}),
    ),
    "import": Kind(
        job_type="IMPORT",
        request=ingestion_pb2.ImportSpec,
        values={
            "dataset": Published(type=DATASET, key="pinned"),
            **_wholes("version", "accepted", "rejected", "bytes"),
        },
    ),
    "query": Kind(
        job_type="QUERY",
        request=query_pb2.SubmitQueryRequest,
        values={"result": Published(type=TABLE), **_wholes("rows", "bytes")},
        source="query",
        hidden=frozenset(
            {"request_id", "format", "reuse", "max_age", "wait", "rerun_of", "labels", "tables"}
        ),
    ),
    "design": Kind(
        job_type="",
        request=pipeline_pb2.KitSpec,
        values={
            "result": Published(type=TABLE, stage=DESIGN),
            "runs": Published(type=WHOLE, key="evaluated_count", stage=DESIGN),
            "failed": Published(type=WHOLE, key="failed_count", stage=DESIGN),
            "best": Published(type=NUMBER, key="best.objective", stage=OPTIMIZE),
        },
        source="design",
        hidden=frozenset({"name", "project", "labels"}),
    ),
    "deliver": Kind(
        job_type="DELIVER",
        request=ingestion_pb2.DeliverSpec,
        values={
            "dataset": Published(type=DATASET, key="pinned"),
            "alias": Published(type=TEXT, key="alias"),
            **_wholes("version", "rows", "rejected", "bytes"),
        },
    ),
}


def type_number(kind: Kind) -> common_pb2.JobType.ValueType:
    """The job type of a kind."""
    return common_pb2.JobType.Value(f"JOB_TYPE_{kind.job_type}")
