"""The gRPC service of the outbox: translates, and keeps callers within their projects."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from vistaflow.api.outbox.v1 import outbox_pb2 as pb
from vistaflow.api.outbox.v1 import outbox_pb2_grpc as rpc
from vistaflow_services.core import config, off_loop
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.message_limits import MESSAGE_BYTES, fitting
from vistaflow_services.core.names import MAX_PROJECT
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.rpc.request_size import Check, check_size
from vistaflow_services.core.server.shell import Context
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.messages import requests, translate
from vistaflow_services.registry.messages.raw import SMALL_BYTES
from vistaflow_services.registry.outbox import messages, sealing
from vistaflow_services.registry.outbox.store import Leased, OutboxStore

MAX_PAGE: Final = 1_000
MAX_LEASED: Final = 100
MAX_ERROR: Final = 1_000
MAX_RETRY_AFTER: Final = timedelta(days=1)
MAX_DURATION_SECONDS: Final = 315_576_000_000

SERVICE = pb.DESCRIPTOR.services_by_name["OutboxService"]


def checks() -> dict[str, Check]:
    """The check of the requests of each method, in wire form."""
    paths = (f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods)
    return {path: _small(path) for path in paths}


def _small(path: str) -> Check:
    return lambda data: check_size(path, data, SMALL_BYTES)


class OutboxServicer(rpc.OutboxServiceServicer):
    """Serves OutboxService.

    Args:
        store: Where webhooks and deliveries are kept.
    """

    def __init__(self, store: OutboxStore) -> None:
        self._store = store

    async def SetWebhook(
        self, request: pb.SetWebhookRequest, context: Context
    ) -> pb.SetWebhookResponse:
        """Makes or changes a webhook."""
        violations = Violations()
        key = messages.key(request, violations)
        hosts = config.webhook_hosts()
        await off_loop.reading.do(messages.check_webhook, request, hosts, violations)
        asked = await _asked(messages.without_secrets(request), violations)
        webhook = await self._store.set_webhook(
            key,
            request.url or None,
            request.events if request.change_events or request.events else None,
            [sealing.read_secret(secret) or b"" for secret in request.secrets],
            asked,
        )
        return pb.SetWebhookResponse(webhook=messages.webhook_to_proto(webhook))

    async def ListWebhooks(
        self, request: pb.ListWebhooksRequest, context: Context
    ) -> pb.ListWebhooksResponse:
        """Lists webhooks."""
        violations = Violations()
        project = _filter(request.project, violations)
        violations.check()
        webhooks = await self._store.webhooks(project)
        return pb.ListWebhooksResponse(webhooks=fitting(webhooks, messages.webhook_to_proto))

    async def DeleteWebhook(
        self, request: pb.DeleteWebhookRequest, context: Context
    ) -> pb.DeleteWebhookResponse:
        """Deletes a webhook."""
        violations = Violations()
        key = messages.key(request, violations)
        await self._store.delete_webhook(key, await _asked(request, violations))
        return pb.DeleteWebhookResponse()

    async def TestWebhook(
        self, request: pb.TestWebhookRequest, context: Context
    ) -> pb.TestWebhookResponse:
        """Sends a test event to a webhook."""
        violations = Violations()
        key = messages.key(request, violations)
        delivery = await self._store.test(key, await _asked(request, violations))
        return pb.TestWebhookResponse(delivery=messages.delivery_to_proto(delivery))

    async def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: Context
    ) -> pb.ListDeliveriesResponse:
        """Lists deliveries."""
        violations = Violations()
        limit = pages.size(request, 100, MAX_PAGE, violations)
        before = pages.decode(request, violations)
        project = _filter(request.project, violations)
        translate.label_from_proto(request.target, "target", messages.MAX_NAME, violations)
        state = None
        if request.state not in pb.DeliveryState.values():
            violations.add("state", f"{request.state} is no value of the enum")
        elif request.state:
            state = pb.DeliveryState.Name(request.state).removeprefix("DELIVERY_STATE_")
        violations.check()
        deliveries = await self._store.deliveries(
            project=project,
            state=state,
            target=request.target or None,
            before=before,
            limit=limit + 1,
        )
        listed = await off_loop.reading.do(fitting, deliveries[:limit], messages.delivery_to_proto)
        more = len(listed) < len(deliveries)
        return pb.ListDeliveriesResponse(
            deliveries=listed,
            next_page_token=pages.encode(listed[-1].delivery_id, request) if more else "",
        )

    async def RetryDelivery(
        self, request: pb.RetryDeliveryRequest, context: Context
    ) -> pb.RetryDeliveryResponse:
        """Has a delivery that is DEAD be sent again."""
        violations = Violations()
        if request.delivery_id < 1:
            violations.add("delivery_id", f"is {request.delivery_id}; they are numbered from 1")
        asked = await _asked(request, violations)
        project = callers.current().project or None
        delivery = await self._store.retry(request.delivery_id, project, asked)
        return pb.RetryDeliveryResponse(delivery=messages.delivery_to_proto(delivery))

    async def LeaseDeliveries(
        self, request: pb.LeaseDeliveriesRequest, context: Context
    ) -> pb.LeaseDeliveriesResponse:
        """Leases deliveries that are due."""
        violations = Violations()
        if not 1 <= request.limit <= MAX_LEASED:
            violations.add("limit", f"is {request.limit}; give 1 to {MAX_LEASED}")
        violations.check()
        leased = await self._store.take(request.limit)
        # What does not fit is leased again when its lease has ended.
        fitted = fitting(leased, self._leased_to_proto, MESSAGE_BYTES)
        return pb.LeaseDeliveriesResponse(deliveries=fitted)

    def _leased_to_proto(self, leased: Leased) -> pb.LeasedDelivery:
        message = pb.LeasedDelivery(
            delivery_id=leased.delivery_id,
            lease=str(leased.lease),
            kind=pb.DeliveryKind.Value(f"DELIVERY_KIND_{leased.kind}"),
            url=leased.url,
            headers=leased.headers,
            body=leased.body,
        )
        message.timeout.FromTimedelta(self._store.lease * 2 / 3)
        return message

    async def ReportDelivery(
        self, request: pb.ReportDeliveryRequest, context: Context
    ) -> pb.ReportDeliveryResponse:
        """Reports what became of a delivery."""
        violations = Violations()
        lease = translate.uuid_from_proto(request.lease, "lease", violations)
        error = translate.text_from_proto(request.error, "error", MAX_ERROR, violations)
        if not 0 <= request.answer_status <= 999:
            violations.add("answer_status", f"is {request.answer_status}; give 0 to 999")
        if request.delivery_id < 1:
            violations.add("delivery_id", f"is {request.delivery_id}; they are numbered from 1")
        if not 0 <= request.retry_after.seconds <= MAX_DURATION_SECONDS:
            violations.add("retry_after", "is no duration from 0 on")
        seconds = min(request.retry_after.seconds, MAX_RETRY_AFTER.total_seconds())
        violations.check()
        applied = await self._store.report(
            request.delivery_id,
            lease,
            sent=request.sent,
            answer_status=request.answer_status,
            error=error,
            permanent=request.permanent,
            retry_after=timedelta(seconds=seconds),
        )
        return pb.ReportDeliveryResponse(applied=applied)


def _filter(project: str, violations: Violations) -> str | None:
    """The project that a list is of; None for every project."""
    translate.label_from_proto(project, "project", MAX_PROJECT, violations)
    return project or callers.current().project or None


async def _asked(request: requests.OutboxRequest, violations: Violations) -> c.Request:
    """The request as it is kept, once nothing of it is wrong."""
    requests.actor_of(request.actor, "actor", violations)
    asked = await off_loop.reading.do(requests.kept_request, request, lambda _: b"", violations)
    violations.check()
    return asked
