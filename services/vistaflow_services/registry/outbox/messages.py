"""Protos of the outbox to values, and back."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import Final, NamedTuple

from vistaflow.api.outbox.v1 import outbox_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.names import DEFAULT_PROJECT, MAX_PROJECT
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.outbox import events, sealing

MAX_NAME: Final = 63
MAX_SECRETS: Final = 2
SETTING: Final = "VISTAFLOW_WEBHOOK_HOSTS"

Named = (
    pb.SetWebhookRequest | pb.DeleteWebhookRequest | pb.TestWebhookRequest
)  # fmt: skip


class WebhookKey(NamedTuple):
    """The project and the name of a webhook."""

    project: str
    name: str


class Webhook(NamedTuple):
    """A webhook: a row of the query `list_webhooks`."""

    project: str
    name: str
    url: str
    events: list[str]
    secret_count: int
    created_at: datetime
    updated_at: datetime
    actor: str


class Delivery(NamedTuple):
    """A delivery: a row of the query `list_deliveries`."""

    delivery_id: int
    event_id: uuid.UUID
    kind: str
    event_type: str
    project: str
    target: str
    order_key: str
    state: str
    attempts: int
    answer_status: int
    error: str
    created_at: datetime
    updated_at: datetime
    next_attempt_at: datetime
    job_id: uuid.UUID | None


def project_of(project: str) -> str:
    """The project that a request is about."""
    return project or callers.current().project or DEFAULT_PROJECT


def key(request: Named, violations: Violations) -> WebhookKey:
    """The webhook that a request names."""
    project = project_of(request.project)
    translate.name_from_proto(project, "project", MAX_PROJECT, violations)
    translate.name_from_proto(request.name, "name", MAX_NAME, violations)
    return WebhookKey(project, request.name)


def check_webhook(
    request: pb.SetWebhookRequest, hosts: tuple[str, ...], violations: Violations
) -> None:
    """Adds what is wrong with a webhook."""
    if request.url:
        # Imported here: the registry needs the library for this alone.
        from vistaflow_services.pages.hosts import Hosts, RefusedError

        try:
            Hosts(hosts, SETTING).parse(request.url)
        except RefusedError as error:
            violations.add("url", str(error))
        except ValueError as error:
            violations.add("url", f"cannot be checked: {SETTING}: {error}")
    for place, event in enumerate(request.events[:100]):
        if event not in events.TYPES:
            violations.add(f"events[{place}]", f"give one of {', '.join(events.TYPES)}")
    if len(request.secrets) > MAX_SECRETS:
        violations.add("secrets", f"has {len(request.secrets)}; give at most {MAX_SECRETS}")
    for place, secret in enumerate(request.secrets[:MAX_SECRETS]):
        if sealing.read_secret(secret) is None:
            violations.add(f"secrets[{place}]", f"is malformed; {sealing.FORM}")


def without_secrets(request: pb.SetWebhookRequest) -> pb.SetWebhookRequest:
    """The request as it may be kept: other secrets still make another request."""
    shown = pb.SetWebhookRequest()
    shown.CopyFrom(request)
    del shown.secrets[:]
    shown.secrets.extend(
        "sha256:" + hashlib.sha256(secret.encode()).hexdigest()[:16] for secret in request.secrets
    )
    return shown


def webhook_to_proto(webhook: Webhook) -> pb.Webhook:
    """A webhook as a message."""
    message = pb.Webhook(
        name=webhook.name,
        project=webhook.project,
        url=webhook.url,
        events=webhook.events,
        secret_count=webhook.secret_count,
        actor=webhook.actor,
    )
    message.created_at.FromDatetime(webhook.created_at)
    message.updated_at.FromDatetime(webhook.updated_at)
    return message


def delivery_to_proto(delivery: Delivery) -> pb.Delivery:
    """A delivery as a message."""
    message = pb.Delivery(
        delivery_id=delivery.delivery_id,
        event_id=str(delivery.event_id),
        kind=pb.DeliveryKind.Value(f"DELIVERY_KIND_{delivery.kind}"),
        event_type=delivery.event_type,
        project=delivery.project,
        target=delivery.target,
        order_key=delivery.order_key,
        state=pb.DeliveryState.Value(f"DELIVERY_STATE_{delivery.state}"),
        attempt_count=delivery.attempts,
        answer_status=delivery.answer_status,
        error=delivery.error,
        job_id=str(delivery.job_id or ""),
    )
    message.created_at.FromDatetime(delivery.created_at)
    message.updated_at.FromDatetime(delivery.updated_at)
    if delivery.state == "PENDING":
        message.next_time.FromDatetime(delivery.next_attempt_at)
    return message
