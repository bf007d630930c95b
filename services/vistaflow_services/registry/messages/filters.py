"""Reads what requests choose: kits, jobs and rows by filters, pages, moments of the past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.names import MAX_KIT_NAME, MAX_PROJECT
from vistaflow_services.core.rpc import pages
from vistaflow_services.registry.domain import (
    RETRYABLE,
    TERMINAL,
    JobChangeFilter,
    JobFilter,
    KitFilter,
    StateFilter,
    Status,
)
from vistaflow_services.registry.messages import translate

MAX_TREE_PAGE = 100_000
"""Most jobs and tasks, or changes, that a page is asked for; fewer come if they do not fit."""

WHOLE = 2**62
"""The revision of the last task of a job that was sent with all its tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePlace:
    """Where a page of a tree ended: a job, by its place in the tree, and the last task of it."""

    current_order: int = 0
    first_revision: int = 0
    task: int = WHOLE
    """Revision of the task; 0: the job itself and none of its tasks yet."""


def as_of(request: pb.GetKitRequest, violations: Violations) -> tuple[int, datetime | None]:
    """The revision or the time that a kit is asked for at; neither: as it is."""
    time = translate.time_from_proto(request, "as_of_time", violations)
    if request.as_of_revision < 0:
        violations.add(
            "as_of_revision", f"is {request.as_of_revision}; give a revision, or 0 for as it is"
        )
    if request.as_of_revision and request.HasField("as_of_time"):
        violations.add("as_of_time", "must be unset when as_of_revision is given: give one of them")
    return request.as_of_revision, time


def tree_page(
    request: pb.GetKitRequest | pb.GetJobRequest, violations: Violations
) -> tuple[int, int, TreePlace | None]:
    """A page of a tree: how much, as of which revision the first was, where the last one ended."""
    size = pages.size(request, 0, MAX_TREE_PAGE, violations)
    keys = pages.decode_keys(request, 4, violations)
    if not keys:
        return size, 0, None
    began_at, order, first, task = keys
    return size, began_at, TreePlace(current_order=order, first_revision=first, task=task)


def tree_token(
    request: pb.GetKitRequest | pb.GetJobRequest, revision: int, place: TreePlace | None
) -> str:
    """The token of the page that starts at a place; empty after the last."""
    if place is None:
        return ""
    keys = (revision, place.current_order, place.first_revision, place.task)
    return pages.encode_keys(keys, request)


def between(request: pb.DiffKitRequest, violations: Violations) -> tuple[int, int]:
    """The revisions to compare."""
    for name in ("from_revision", "to_revision"):
        if getattr(request, name) < 0:
            violations.add(name, f"is {getattr(request, name)}; revisions count from 1")
    if 0 < request.to_revision < request.from_revision:
        violations.add("to_revision", "must not be before from_revision")
    return request.from_revision, request.to_revision


def kits(request: pb.ListKitsRequest, violations: Violations) -> KitFilter:
    """Which kits to list."""
    created_after = translate.time_from_proto(request, "created_after", violations)
    created_before = translate.time_from_proto(request, "created_before", violations)
    if created_after and created_before and created_after >= created_before:
        violations.add("created_before", "must be later than created_after")
    return KitFilter(
        project=translate.label_from_proto(request.project, "project", MAX_PROJECT, violations),
        statuses=translate.statuses_from_proto(request.statuses, "statuses", violations),
        labels=_sorted_labels(request.labels, "labels", violations),
        name_contains=translate.label_from_proto(
            request.name_contains, "name_contains", MAX_KIT_NAME, violations
        ),
        created_after=created_after,
        created_before=created_before,
    )


def jobs(request: pb.ListJobsRequest, project: str, violations: Violations) -> JobFilter:
    """Which jobs to list, of the caller's project ("" for all)."""
    return JobFilter(
        kit_ids=tuple(translate.ids_from_proto(request.kit_ids, "kit_ids", violations)),
        job_types=translate.job_types_from_proto(request.job_types, "job_types", violations),
        statuses=translate.statuses_from_proto(request.statuses, "statuses", violations),
        project=project,
        labels=_sorted_labels(request.labels, "labels", violations),
    )


def changed_jobs(message: pb.JobFilter, retry: bool, violations: Violations) -> JobChangeFilter:
    """Which jobs to cancel, or to retry."""
    if not message.ListFields():
        violations.add("filter", "is empty and would mean every job; give at least one field")
    movable = RETRYABLE if retry else frozenset(Status) - TERMINAL
    statuses = translate.statuses_from_proto(message.statuses, "filter.statuses", violations)
    return JobChangeFilter(
        kit_ids=tuple(translate.ids_from_proto(message.kit_ids, "filter.kit_ids", violations)),
        job_types=translate.job_types_from_proto(message.job_types, "filter.job_types", violations),
        statuses=statuses & movable if statuses else movable,
        project=translate.label_from_proto(
            message.project, "filter.project", MAX_PROJECT, violations
        ),
        kit_labels=_sorted_labels(message.kit_labels, "filter.kit_labels", violations),
        labels=_sorted_labels(message.labels, "filter.labels", violations),
        created_before=translate.time_from_proto(message, "created_before", violations, "filter."),
    )


def states(message: pb.StateFilter, violations: Violations, field: str = "filter") -> StateFilter:
    """Which rows a reader wants."""
    prefix = f"{field}."
    recorded_after = translate.time_from_proto(message, "recorded_after", violations, prefix)
    recorded_before = translate.time_from_proto(message, "recorded_before", violations, prefix)
    if recorded_after and recorded_before and recorded_after >= recorded_before:
        violations.add(f"{field}.recorded_before", "must be later than recorded_after")
    job_ids = translate.few_from_proto(message.job_ids, f"{field}.job_ids", violations)
    return StateFilter(
        project=translate.label_from_proto(
            message.project, f"{field}.project", MAX_PROJECT, violations
        ),
        recorded_after=recorded_after,
        recorded_before=recorded_before,
        kit_ids=frozenset(
            translate.ids_from_proto(message.kit_ids, f"{field}.kit_ids", violations)
        ),
        job_types=translate.job_types_from_proto(
            message.job_types, f"{field}.job_types", violations
        ),
        statuses=translate.statuses_from_proto(message.statuses, f"{field}.statuses", violations),
        labels=_sorted_labels(message.labels, f"{field}.labels", violations),
        job_ids=frozenset(
            translate.uuid_from_proto(job_id, f"{field}.job_ids[{place}]", violations)
            for place, job_id in enumerate(job_ids)
        ),
    )


def _sorted_labels(
    labels: Mapping[str, str], field: str, violations: Violations
) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(translate.labels_from_proto(labels, field, violations).items()))
