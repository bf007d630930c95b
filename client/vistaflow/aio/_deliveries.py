"""Calls of the asynchronous client for webhooks and deliveries."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Sequence

from vistaflow._rpc.messages import is_number, listed, message_of
from vistaflow.aio._calls import Calls
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.errors import invalid


class DeliveryCalls(Calls):
    """The methods of a client that are for events sent to other programs."""

    async def set_webhook(
        self,
        name: str,
        url: str = "",
        *,
        events: Sequence[str] | None = None,
        secrets: Sequence[str] = (),
        project: str = "",
        actor: str = "",
        request_id: str = "",
    ) -> outbox_pb2.Webhook:
        """Makes a webhook, or changes what is given of it.

        Args:
            name: Unique in the project: 1 to 63 of a-z, 0-9, `_`, `.` and `-`.
            url: Where events are posted to, of a host that the operator allows.
            events: The types of events of the project that it gets, such as `dataset.version` or
                `kit.failed`; none: those of the kits and schedules that name it.
            secrets: What signs its messages: one, or two while receivers change to a new one.
                Each is `whsec_` and 24 to 64 random bytes in base64.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        request = message_of(
            outbox_pb2.SetWebhookRequest,
            request_id=request_id,
            project=project,
            name=name,
            url=url,
            events=listed(events or (), "events"),
            change_events=events is not None,
            secrets=listed(secrets, "secrets"),
            actor=actor,
        )
        response: outbox_pb2.SetWebhookResponse = await self._call("outbox", "SetWebhook", request)
        return response.webhook

    async def webhooks(self, *, project: str = "") -> list[outbox_pb2.Webhook]:
        """The webhooks by project and name, without their secrets.

        Args:
            project: Only those of this project.
        """
        request = message_of(outbox_pb2.ListWebhooksRequest, project=project)
        response = await self._call("outbox", "ListWebhooks", request)
        return list(response.webhooks)

    async def delete_webhook(self, name: str, *, project: str = "", actor: str = "") -> None:
        """Deletes a webhook; what waits to be sent to it is dead.

        Args:
            name: The webhook.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        request = message_of(
            outbox_pb2.DeleteWebhookRequest, project=project, name=name, actor=actor
        )
        await self._call("outbox", "DeleteWebhook", request)

    async def test_webhook(
        self, name: str, *, project: str = "", actor: str = ""
    ) -> outbox_pb2.Delivery:
        """Sends an event of the type `webhook.test` to a webhook.

        Args:
            name: The webhook.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        request = message_of(outbox_pb2.TestWebhookRequest, project=project, name=name, actor=actor)
        response: outbox_pb2.TestWebhookResponse = await self._call(
            "outbox", "TestWebhook", request
        )
        return response.delivery

    async def deliveries(
        self, *, project: str = "", state: str = "", target: str = "", limit: int = 100
    ) -> list[outbox_pb2.Delivery]:
        """Deliveries, newest first.

        Args:
            project: Only those of this project.
            state: Only those that are `pending`, `sent` or `dead`.
            target: Only those to this webhook, or to `openlineage`.
            limit: How many at most; 0 for all.
        """
        if not is_number(limit) or limit < 0:
            raise invalid("limit", f"{limit!r} is not a number from 0 on")
        words = [
            word.removeprefix("DELIVERY_STATE_") for word in outbox_pb2.DeliveryState.keys()[1:]
        ]
        if not isinstance(state, str) or (state and state.upper() not in words):
            raise invalid("state", f"{state!r} is none of pending, sent, dead")
        request = message_of(
            outbox_pb2.ListDeliveriesRequest,
            project=project,
            state=outbox_pb2.DeliveryState.Value(
                f"DELIVERY_STATE_{state.upper() or 'UNSPECIFIED'}"
            ),
            target=target,
            page_size=min(limit or 1000, 1000),
        )
        pages: AsyncIterator[outbox_pb2.Delivery] = self._pages(
            "outbox", "ListDeliveries", request, "deliveries", limit
        )
        return [delivery async for delivery in pages]

    async def retry_delivery(
        self, delivery_id: int, *, actor: str = "", request_id: str = ""
    ) -> outbox_pb2.Delivery:
        """Has a dead delivery be sent again, under the same event id.

        Args:
            delivery_id: The delivery.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.
        """
        request = message_of(
            outbox_pb2.RetryDeliveryRequest,
            request_id=request_id,
            delivery_id=delivery_id,
            actor=actor,
        )
        response: outbox_pb2.RetryDeliveryResponse = await self._call(
            "outbox", "RetryDelivery", request
        )
        return response.delivery


def new_webhook_secret() -> str:
    """A new secret for a webhook: 32 random bytes, as receivers take it."""
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()
