"""Requests that choose many jobs, or a moment of the past, checked."""

from __future__ import annotations

from datetime import datetime

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import Violations
from vistaflow_services.registry import pages, translate
from vistaflow_services.registry.domain import (
    MAX_PROJECT,
    RETRYABLE,
    TERMINAL,
    JobFilter,
    Status,
)
from vistaflow_services.registry.tree_pages import Place

MAX_TREE_PAGE = 100_000
"""Most jobs and tasks, or changes, that a page is asked for; fewer come if they do not fit."""


def as_of(request: pb.GetKitRequest, found: Violations) -> tuple[int, datetime | None]:
    """The revision or the time that a kit is asked for at; neither: as it is."""
    time = translate.time_from_proto(request, "as_of_time", found)
    if request.as_of_revision < 0:
        found.add(
            "as_of_revision", f"is {request.as_of_revision}; give a revision, or 0 for as it is"
        )
    if request.as_of_revision and request.HasField("as_of_time"):
        found.add("as_of_time", "must be unset when as_of_revision is given: give one of them")
    return request.as_of_revision, time


def tree_page(
    request: pb.GetKitRequest | pb.GetJobRequest, found: Violations
) -> tuple[int, int, Place | None]:
    """A page of a tree: how much, as of which revision the first was, where the last one ended."""
    size = pages.size(request, 0, MAX_TREE_PAGE, found)
    keys = pages.decode_keys(request, 4, found)
    if not keys:
        return size, 0, None
    began_at, order, first, task = keys
    return size, began_at, Place(current_order=order, first_revision=first, task=task)


def tree_token(
    request: pb.GetKitRequest | pb.GetJobRequest, revision: int, place: Place | None
) -> str:
    """The token of the page that starts at a place; empty after the last."""
    if place is None:
        return ""
    keys = (revision, place.current_order, place.first_revision, place.task)
    return pages.encode_keys(keys, request)


def between(request: pb.DiffKitRequest, found: Violations) -> tuple[int, int]:
    """The revisions to compare."""
    for name in ("from_revision", "to_revision"):
        if getattr(request, name) < 0:
            found.add(name, f"is {getattr(request, name)}; revisions count from 1")
    if 0 < request.to_revision < request.from_revision:
        found.add("to_revision", "must not be before from_revision")
    return request.from_revision, request.to_revision


def created(
    request: pb.ListKitsRequest, found: Violations
) -> tuple[datetime | None, datetime | None]:
    """When the kits wanted were created: from, and until."""
    first = translate.time_from_proto(request, "created_after", found)
    last = translate.time_from_proto(request, "created_before", found)
    if first and last and first >= last:
        found.add("created_before", "must be later than created_after")
    return first, last


def jobs(message: pb.JobFilter, retry: bool, found: Violations) -> JobFilter:
    """Which jobs to cancel, or to retry."""
    if not message.ListFields():
        found.add("filter", "is empty and would mean every job; give at least one field")
    movable = RETRYABLE if retry else frozenset(Status) - TERMINAL
    asked = translate.statuses_from_proto(message.statuses, "filter.statuses", found)
    kit_labels = translate.labels_from_proto(message.kit_labels, "filter.kit_labels", found)
    labels = translate.labels_from_proto(message.labels, "filter.labels", found)
    return JobFilter(
        kit_ids=tuple(translate.ids_from_proto(message.kit_ids, "filter.kit_ids", found)),
        job_types=translate.job_types_from_proto(message.job_types, "filter.job_types", found),
        statuses=asked & movable if asked else movable,
        project=translate.label_from_proto(message.project, "filter.project", MAX_PROJECT, found),
        kit_labels=tuple(sorted(kit_labels.items())),
        labels=tuple(sorted(labels.items())),
        created_before=translate.time_from_proto(message, "created_before", found, "filter."),
    )
