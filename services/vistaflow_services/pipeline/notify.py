"""Whom a kit or a schedule notifies: checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow_services.core.errors import FieldViolation, cut
from vistaflow_services.core.registry_client import RegistryClient

MAX_NOTIFY: Final = 20
ENDS: Final = ("FINISHED", "FAILED", "CANCELED")
OCCASIONS: Final = (*ENDS, "OVERDUE")


async def notify_mistakes(
    registry: RegistryClient,
    project: str,
    notify: Sequence[outbox_pb2.Notify],
    *,
    occasions: Sequence[str] = ENDS,
) -> list[FieldViolation]:
    """What is wrong with `notify` of a kit or a schedule; each webhook must be there.

    Args:
        registry: Knows the webhooks.
        project: The project; the caller's if empty.
        notify: What is asked for.
        occasions: The events that there are.

    Raises:
        ServiceError: The registry does not answer.
    """
    if not notify:
        return []
    request = outbox_pb2.ListWebhooksRequest(project=project)
    answer = await registry.call(registry.outbox.ListWebhooks, request)
    known = {webhook.name for webhook in answer.webhooks}
    mistakes = []
    if len(notify) > MAX_NOTIFY:
        problem = f"has {len(notify)} entries; give at most {MAX_NOTIFY}"
        mistakes.append(FieldViolation(field="notify", description=problem))
    for place, entry in enumerate(notify[:MAX_NOTIFY]):
        field = f"notify[{place}]"
        if entry.webhook not in known:
            problem = (
                f"the project has no webhook `{cut(entry.webhook, 60)}`; make it with "
                f"`vistaflow webhook set`"
            )
            mistakes.append(FieldViolation(field=f"{field}.webhook", description=problem))
        for event in entry.events:
            if event not in occasions:
                problem = f"`{cut(event, 60)}` is none of {', '.join(occasions)}"
                mistakes.append(FieldViolation(field=f"{field}.events", description=problem))
                break
    return mistakes
