"""Rows of the tables as domain values, and values as the parameters of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from vistaflow_services.registry.database.pool import Row
from vistaflow_services.registry.domain import (
    Counts,
    Job,
    JobFilter,
    Kit,
    KitFilter,
    Progress,
    StateFilter,
    StateRow,
)


def filter_parameters(chosen: KitFilter | JobFilter | StateFilter) -> dict[str, Any]:
    """The fields of a filter as parameters of queries, each under its name; None for empty ones."""
    return {field.name: _parameter(getattr(chosen, field.name)) for field in fields(chosen)}


def _parameter(value: Any) -> Any:
    """A list for several values, JSON for labels."""
    if value in ("", (), frozenset()):
        return None
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return Jsonb(dict(value))
    return list(value) if isinstance(value, tuple | frozenset) else value


def to_row(row: Row) -> StateRow:
    """A row of the log, from the columns that every query of the log returns."""
    return StateRow(
        revision=row[0],
        batch=row[1],
        kit_id=row[2],
        job_id=row[3],
        job_type=row[4],
        task_name=row[5],
        status=row[6],
        current_order=row[7],
        attempt=row[8],
        seq=row[9],
        created_at=row[10],
        metadata_json=row[11],
        actor=row[12],
        reason=row[13],
        kit_counts=None if row[14] is None else to_counts(row[14]),
    )


def to_kit(row: Row) -> Kit:
    """A kit without its jobs."""
    return Kit(
        kit_id=row[0],
        name=row[1],
        project=row[2],
        labels=row[3],
        spec_json=row[4],
        actor=row[5],
        counts=to_counts(row[6]),
        revision=row[7],
        created_at=row[8],
        updated_at=row[9],
        paused=row[10],
        pauses=row[11],
        first_revision=row[12],
    )


def to_counts(counts: Sequence[int]) -> Counts:
    """Six numbers of the database as counts."""
    return (counts[0], counts[1], counts[2], counts[3], counts[4], counts[5])


def to_job(row: Row) -> Job:
    """A job without its tasks."""
    progress = row[26]
    return Job(
        job_id=row[0],
        kit_id=row[1],
        name=row[2],
        job_type=row[3],
        current_order=row[4],
        depends_on=tuple(row[5]),
        spec_type=row[6],
        spec=bytes(row[7]),
        external=row[8],
        max_attempts=row[9],
        failures=row[10],
        timeout_seconds=row[11],
        priority=row[12],
        labels=row[13],
        status=row[14],
        attempt=row[15],
        last_seq=row[16],
        first_revision=row[17],
        revision=row[18],
        created_at=row[19],
        started_at=row[20],
        finished_at=row[21],
        worker=row[22],
        reason=row[23],
        actor=row[24],
        result_json=row[25],
        progress=None if progress is None else progress_from_json(progress, row[27]),
    )


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """Progress as the database stores it, without its time."""
    return {
        "phase": progress.phase,
        "completed": progress.completed,
        "total": progress.total,
        "unit": progress.unit,
        "message": progress.message,
    }


def progress_from_json(stored: Mapping[str, Any], updated_at: datetime | None) -> Progress:
    """Progress from its stored form."""
    return Progress(
        phase=stored.get("phase", ""),
        completed=stored.get("completed", 0),
        total=stored.get("total", 0),
        unit=stored.get("unit", ""),
        message=stored.get("message", ""),
        updated_at=updated_at,
    )
