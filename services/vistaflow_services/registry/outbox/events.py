"""Events for webhooks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from vistaflow_services.core import config
from vistaflow_services.core.names import SYSTEM_PROJECT
from vistaflow_services.registry.database.pool import Connection
from vistaflow_services.registry.database.queries import fetch

TYPES: Final = (
    "dataset.version",
    "dataset.alias",
    "kit.finished",
    "kit.failed",
    "kit.canceled",
    "schedule.overdue",
    "backup.alarm",
)
"""The types that a webhook can ask for."""

TEST: Final = "webhook.test"

ENDS: Final = ("FINISHED", "FAILED", "CANCELED")
OVERDUE: Final = "OVERDUE"
OCCASIONS: Final = (*ENDS, OVERDUE)
"""What a kit or a schedule can notify of."""

MAX_REASON: Final = 2_000
MAX_LABELS_BYTES: Final = 16 * 1024

_SPACE: Final = uuid.UUID("5f6f7c0e-8f3b-5d51-9b0c-6b0f0b1c8a11")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, for the webhooks of a project that want to know."""

    event_id: uuid.UUID
    event_type: str
    project: str
    order_key: str
    """Events of one key reach each webhook in order."""

    data: Mapping[str, Any]
    names: Sequence[str] = ()
    """Webhooks that get it whatever types they ask for."""

    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def body(self) -> str:
        """What is posted."""
        head = {
            "id": str(self.event_id),
            "type": self.event_type,
            "time": timestamp(self.time),
            "project": self.project,
        }
        return json.dumps(head | dict(self.data), ensure_ascii=False, separators=(",", ":"))


async def add_events(
    connection: Connection, events: Iterable[Event], now: datetime | None = None
) -> int:
    """Records events, within the transaction of what they are about; returns for how many webhooks.

    Args:
        connection: In a transaction.
        events: One whose id was recorded before for a webhook is left out.
        now: The time; the database's if None.
    """
    rows = [
        {
            "place": place,
            "event_id": str(event.event_id),
            "event_type": event.event_type,
            "project": event.project,
            "order_key": event.order_key,
            "body": event.body,
            "names": list(event.names),
        }
        for place, event in enumerate(events)
    ]
    if not rows:
        return 0
    parameters = {"events": json.dumps(rows).replace("\\u0000", "\\ufffd"), "now": now}
    ((count,),) = await fetch(connection, "add_events", parameters)
    return int(count)


def event_id(*parts: object) -> uuid.UUID:
    """An id that follows from what an event is about."""
    return uuid.uuid5(_SPACE, " ".join(map(str, parts)))


def timestamp(time: datetime) -> str:
    """A time as RFC 3339 has it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def link(path: str) -> str:
    """The address of a thing at the gateway; the path alone if the operator has named none."""
    return f"{config.public_url()}/v1/{path}"


def named_webhooks(notify: Any, occasion: str) -> list[str]:
    """The webhooks that get an occasion, by what a kit or a schedule says.

    Everybody who may create kits writes their spec, so it may hold anything.
    """
    names = []
    for entry in notify if isinstance(notify, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("webhook"), str):
            occasions = entry.get("events") or OCCASIONS
            if isinstance(occasions, list | tuple) and occasion in occasions:
                names.append(entry["webhook"])
    return names


def version_event(project: str, name: str, version: Any, aliases: Sequence[str]) -> Event:
    """A new version of a dataset.

    Args:
        project: Its project.
        name: Its name.
        version: A `Version`.
        aliases: The names of the version.
    """
    dataset = {
        "name": name,
        "version": version.version,
        "aliases": list(aliases),
        "row_count": version.row_count,
        "rejected_count": version.rejected_count,
        "size_bytes": version.size_bytes,
        "digest": version.digest,
        "parent": version.parent,
        "job_id": str(version.job_id),
    }
    return _of_dataset(
        event_id("dataset", version.job_id), "dataset.version", project, name, dataset
    )


def alias_event(project: str, name: str, alias: str, version: int) -> Event:
    """An alias of a dataset that names another version; 0: none any more."""
    dataset = {"name": name, "alias": alias, "version": version}
    return _of_dataset(uuid.uuid4(), "dataset.alias", project, name, dataset)


def _of_dataset(
    identity: uuid.UUID, event_type: str, project: str, name: str, dataset: dict[str, Any]
) -> Event:
    suffix = f"@{dataset['version']}" if dataset["version"] else ""
    return Event(
        event_id=identity,
        event_type=event_type,
        project=project,
        order_key=f"dataset:{project}.{name}",
        data={"dataset": dataset, "link": link(f"datasets/{project}.{name}{suffix}")},
    )


def overdue_event(
    project: str, schedule: str, fire_time: datetime, state: str, reason: str, names: Sequence[str]
) -> Event:
    """A fire of a schedule that made no kit."""
    return Event(
        event_id=event_id("fire", project, schedule, timestamp(fire_time), state),
        event_type="schedule.overdue",
        project=project,
        order_key=f"schedule:{project}.{schedule}",
        data={
            "schedule": {
                "name": schedule,
                "fire_time": timestamp(fire_time),
                "state": state,
                "reason": reason[:MAX_REASON],
            },
            "link": link(f"schedules/{schedule}"),
        },
        names=names,
    )


def backup_alarm(summary: str) -> Event:
    """A backup is overdue. One event a day, however many registries see it and however often."""
    today = datetime.now(UTC).date()
    return Event(
        event_id=event_id("backup.alarm", today),
        event_type="backup.alarm",
        project=SYSTEM_PROJECT,
        order_key="backup",
        data={"backup": {"reason": summary}, "link": link("server")},
    )


def kit_event(row: Sequence[Any]) -> Event:
    """The end of a kit, from a row of the query `ended_kits`."""
    (_, kit_id, time, status, name, project, labels, notify, schedule, schedule_notify, attempts,
     job_id, job_name, job_type, reason) = row  # fmt: skip
    kit: dict[str, Any] = {"kit_id": kit_id, "name": name, "status": status}
    if len(json.dumps(labels)) <= MAX_LABELS_BYTES:
        kit["labels"] = labels
    data: dict[str, Any] = {"kit": kit}
    if job_id is not None:
        # The first job that failed.
        data["job"] = {
            "job_id": str(job_id),
            "name": job_name,
            "job_type": job_type,
            "reason": reason[:MAX_REASON],
        }
    if schedule is not None:
        data["schedule"] = {"name": schedule}
    return Event(
        # A kit that is retried ends again, with more attempts.
        event_id=event_id("kit", kit_id, attempts, status),
        event_type=f"kit.{status.lower()}",
        project=project,
        order_key=f"kit:{kit_id}",
        data={**data, "link": link(f"kits/{kit_id}")},
        names=[*named_webhooks(notify, status), *named_webhooks(schedule_notify, status)],
        time=time,
    )
