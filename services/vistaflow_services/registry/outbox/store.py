"""Webhooks and deliveries in the database. Their SQL is in `sql/outbox_queries.sql`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    NotFoundError,
    field_error,
)
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.database.once import once
from vistaflow_services.registry.database.pool import Connection, Connections, Pool
from vistaflow_services.registry.database.queries import QUERIES, fetch, fetch_planned
from vistaflow_services.registry.database.space import StorageGuard
from vistaflow_services.registry.outbox.events import TEST, Event, add_events
from vistaflow_services.registry.outbox.messages import Delivery, Webhook, WebhookKey
from vistaflow_services.registry.outbox.sealing import Seal, SealedError, signed_headers

MAX_WEBHOOKS: Final = 100
"""Webhooks of one project."""

LISTED_WEBHOOKS: Final = 1_000

PER_TARGET: Final = 4
"""Deliveries to one webhook at once, or to the catalog for one project."""

RETENTION: Final = timedelta(days=30)
"""How long deliveries are kept that are sent or dead."""


class Leased(NamedTuple):
    """A delivery to send, ready to be posted."""

    delivery_id: int
    lease: uuid.UUID
    kind: str
    url: str
    headers: dict[str, str]
    body: bytes


class OutboxStore:
    """Reads and changes webhooks and deliveries.

    Args:
        pool: Connections whose search path is the registry's schema.
        guard: Knows whether there is room for more rows.
        seal: Seals secrets.
        lease_seconds: How long a worker has to report a delivery.
        patience_hours: After which time from its first attempt a delivery is dead.
    """

    def __init__(
        self,
        pool: Pool,
        guard: StorageGuard,
        seal: Seal,
        lease_seconds: float = 15.0,
        patience_hours: float = 24.0,
    ) -> None:
        self._connections = Connections(pool)
        self._guard = guard
        self._seal = seal
        self.lease = timedelta(seconds=lease_seconds)
        self._patience = timedelta(hours=patience_hours)
        self.clock: Callable[[], datetime | None] = lambda: None
        """Tells the time in place of the database, to simulate days."""

    async def set_webhook(
        self,
        key: WebhookKey,
        url: str | None,
        events: Sequence[str] | None,
        secrets: Sequence[bytes],
        request: c.Request,
    ) -> Webhook:
        """Makes or changes a webhook; None and no secrets leave what is there.

        Raises:
            ExistsError: The request's id was used for something else.
            InvalidError: A new webhook has no URL or no secret.
            ExhaustedError: The project has too many.
        """

        async def work(connection: Connection) -> bytes:
            parameters = {
                **key._asdict(),
                "url": url,
                "events": list(events or ()),
                "change_events": events is not None,
                "secrets": [self._seal.close(secret) for secret in secrets] or None,
                "most": MAX_WEBHOOKS,
                "actor": request.actor,
                "now": self.clock(),
            }
            if not await fetch(connection, "put_webhook", parameters):
                if url is None or not secrets:
                    field = "url" if url is None else "secrets"
                    problem = f"is required: project `{key.project}` has no webhook `{key.name}`"
                    raise field_error(field, problem)
                raise ExhaustedError(
                    f"project `{key.project}` has {MAX_WEBHOOKS} webhooks; delete some first"
                )
            return b""

        self._guard.check()
        await once(self._connections, work, request)
        return (await self._webhooks(key.project, key.name, 1, key))[0]

    async def webhooks(self, project: str | None) -> list[Webhook]:
        """Webhooks by project and name."""
        return await self._webhooks(project, None, LISTED_WEBHOOKS)

    async def _webhooks(
        self, project: str | None, name: str | None, limit: int, key: WebhookKey | None = None
    ) -> list[Webhook]:
        parameters = {"project": project, "name": name, "limit": limit}
        rows = await self._connections.fetch(QUERIES["list_webhooks"], parameters)
        if key is not None and not rows:
            raise absent(key)
        return [Webhook(*row) for row in rows]

    async def delete_webhook(self, key: WebhookKey, request: c.Request) -> None:
        """Deletes a webhook.

        Raises:
            ExistsError: The request's id was used for something else.
            NotFoundError: It is not there.
        """

        async def work(connection: Connection) -> bytes:
            # What is leased at the same moment must not be missed.
            await connection.execute(QUERIES["lock_outbox"])
            if not await fetch(
                connection, "delete_webhook", {**key._asdict(), "now": self.clock()}
            ):
                raise absent(key)
            return b""

        await once(self._connections, work, request)

    async def test(self, key: WebhookKey, request: c.Request) -> Delivery:
        """Sends a test event to a webhook.

        Raises:
            ExistsError: The request's id was used for something else.
            NotFoundError: The webhook is not there.
        """

        async def work(connection: Connection) -> bytes:
            event = Event(
                event_id=uuid.uuid4(),
                event_type=TEST,
                project=key.project,
                order_key=f"test:{key.project}.{key.name}",
                data={"webhook": key.name},
                names=[key.name],
            )
            if not await add_events(connection, [event], self.clock()):
                raise absent(key)
            return str(event.event_id).encode()

        self._guard.check()
        event_id = uuid.UUID((await once(self._connections, work, request)).decode())
        return (await self.deliveries(event_id=event_id, limit=1))[0]

    async def deliveries(
        self, *, limit: int, before: int | None = None, **chosen: Any
    ) -> list[Delivery]:
        """Deliveries, newest first.

        Args:
            limit: How many at most.
            before: The number that they are before.
            **chosen: The project, the state, the target, the event's id or the number that they
                have.
        """
        parameters = {
            **dict.fromkeys(("project", "state", "target", "delivery_id", "event_id")),
            **chosen,
            "before": before or 2**62,
            "limit": limit,
        }
        rows = await self._connections.use(
            lambda connection: fetch_planned(connection, QUERIES["list_deliveries"], parameters)
        )
        return [Delivery(*row) for row in rows]

    async def get(self, delivery_id: int, project: str | None) -> Delivery:
        """A delivery.

        Raises:
            NotFoundError: It is not there, or is another project's.
        """
        rows = await self.deliveries(delivery_id=delivery_id, project=project, limit=1)
        if not rows:
            raise NotFoundError(f"there is no delivery {delivery_id}")
        return rows[0]

    async def retry(self, delivery_id: int, project: str | None, request: c.Request) -> Delivery:
        """Has a DEAD delivery be sent again.

        Raises:
            ExistsError: The request's id was used for something else.
            NotFoundError: It is not there.
            ConflictError: It is not DEAD, or its webhook was deleted.
        """
        delivery = await self.get(delivery_id, project)

        async def work(connection: Connection) -> bytes:
            parameters = {"delivery_id": delivery_id, "now": self.clock()}
            if not await fetch(connection, "retry_delivery", parameters):
                problem = (
                    f"its webhook `{delivery.target}` was deleted"
                    if delivery.state == "DEAD"
                    else f"it is {delivery.state}; only one that is DEAD is sent again by hand"
                )
                raise ConflictError(f"delivery_id: delivery {delivery_id}: {problem}")
            return b""

        await once(self._connections, work, request)
        return await self.get(delivery_id, project)

    async def take(self, limit: int) -> list[Leased]:
        """Leases what is due, signed."""

        async def work(connection: Connection) -> list[Leased]:
            async with connection.transaction():
                await connection.execute(QUERIES["lock_outbox"])
                parameters = {
                    "now": self.clock(),
                    "limit": limit,
                    "per_target": PER_TARGET,
                    "lease": self.lease,
                    "patience": self._patience,
                }
                rows = await fetch_planned(connection, QUERIES["lease_deliveries"], parameters)
                leased = []
                for row in rows:
                    delivery_id, lease, kind, event_id, body, now, url, sealed = row
                    headers: dict[str, str] = {}
                    if kind == "WEBHOOK":
                        try:
                            secrets = [self._seal.open(bytes(secret)) for secret in sealed or ()]
                        except SealedError:
                            await self._fail(connection, delivery_id, lease)
                            continue
                        headers = signed_headers(secrets, str(event_id), now, body.encode())
                    leased.append(
                        Leased(delivery_id, lease, kind, url or "", headers, body.encode())
                    )
                return leased

        return await self._connections.use(work)

    async def _fail(self, connection: Connection, delivery_id: int, lease: uuid.UUID) -> None:
        error = (
            "its secret cannot be opened with the key in keys/webhooks of this registry's home; "
            "set the secret of the webhook again"
        )
        await _report(connection, delivery_id, lease, self.clock(), error=error, permanent=True)

    async def report(self, delivery_id: int, lease: uuid.UUID, **outcome: Any) -> bool:
        """Ends a lease; whether it was still valid.

        Args:
            delivery_id: The delivery.
            lease: Proves the lease.
            **outcome: Parameters of the query `report_delivery`.
        """
        return await self._connections.use(
            lambda connection: _report(connection, delivery_id, lease, self.clock(), **outcome)
        )

    async def forget(self) -> int:
        """Deletes deliveries that ended long ago; returns how many."""

        async def work(connection: Connection) -> int:
            parameters = {"now": self.clock(), "age": RETENTION}
            cursor = await connection.execute(QUERIES["forget_deliveries"], parameters)
            return cursor.rowcount

        return await self._connections.use(work)


async def _report(
    connection: Connection,
    delivery_id: int,
    lease: uuid.UUID,
    now: datetime | None,
    **outcome: Any,
) -> bool:
    parameters = {
        "sent": False,
        "permanent": False,
        "answer_status": 0,
        "error": "",
        "retry_after": timedelta(),
        **outcome,
        "delivery_id": delivery_id,
        "lease": lease,
        "now": now,
    }
    return bool(await fetch(connection, "report_delivery", parameters))


def absent(key: WebhookKey) -> NotFoundError:
    """The error about a webhook that is not there."""
    return NotFoundError(f"there is no webhook `{key.name}` in project `{key.project}`")
