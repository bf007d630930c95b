"""Filters of rows and jobs, from the words of a caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from vistaflow._rpc.messages import listed, message_of, set_time
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.models import job_type_value, status_value


def status_values(
    words: Iterable[str], name: str = "statuses"
) -> list[common_pb2.Status.ValueType]:
    """The statuses that words name.

    Raises:
        InvalidArgumentError: One of them is no status.
    """
    return [status_value(word) for word in listed(words, name)]


def job_type_values(
    words: Iterable[str], name: str = "job_types"
) -> list[common_pb2.JobType.ValueType]:
    """The job types that words name.

    Raises:
        InvalidArgumentError: One of them is no job type.
    """
    return [job_type_value(word) for word in listed(words, name)]


def watch_filter(
    *,
    kit_ids: Iterable[int] = (),
    job_ids: Iterable[str] = (),
    job_types: Iterable[str] = (),
    statuses: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    project: str = "",
    recorded_after: datetime | None = None,
    recorded_before: datetime | None = None,
) -> pb.StateFilter:
    """The filter of rows of the log; an empty argument does not restrict.

    Raises:
        InvalidArgumentError: A value is of a wrong type, or a word is unknown.
    """
    state_filter = message_of(
        pb.StateFilter,
        project=project,
        kit_ids=listed(kit_ids, "kit_ids"),
        job_ids=listed(job_ids, "job_ids"),
        job_types=job_type_values(job_types),
        statuses=status_values(statuses),
        labels=labels or {},
    )
    set_time(state_filter.recorded_after, recorded_after, "recorded_after")
    set_time(state_filter.recorded_before, recorded_before, "recorded_before")
    return state_filter


def job_filter(
    *,
    kit_ids: Iterable[int] = (),
    job_types: Iterable[str] = (),
    statuses: Iterable[str] = (),
    project: str = "",
    kit_labels: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    created_before: datetime | None = None,
) -> pb.JobFilter:
    """The filter of a change of many jobs; an empty argument does not restrict.

    Raises:
        InvalidArgumentError: A value is of a wrong type, or a word is unknown.
    """
    jobs = message_of(
        pb.JobFilter,
        kit_ids=listed(kit_ids, "kit_ids"),
        job_types=job_type_values(job_types),
        statuses=status_values(statuses),
        project=project,
        kit_labels=kit_labels or {},
        labels=labels or {},
    )
    set_time(jobs.created_before, created_before, "created_before")
    return jobs
