"""Webhooks and deliveries of another project are as absent as those that never were."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from keys import Keys

from vistaflow.api.outbox.v1 import outbox_pb2 as pb
from vistaflow.api.outbox.v1.outbox_pb2_grpc import OutboxServiceStub

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def code_of(call: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_webhooks_and_deliveries_are_of_their_project_alone(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_WEBHOOK_HOSTS", "ops.example")
    mine, theirs, admin = [
        OutboxServiceStub(keys.channel(await keys.make(role, project)))
        for role, project in (("EDITOR", "mine"), ("EDITOR", "theirs"), ("ADMIN", ""))
    ]
    for caller, name in ((mine, "ops"), (theirs, "secret")):
        request = pb.SetWebhookRequest(
            name=name, url="https://ops.example/", secrets=["whsec_" + "A" * 32]
        )
        assert (await caller.SetWebhook(request)).webhook.name == name
    test = await theirs.TestWebhook(pb.TestWebhookRequest(name="secret"))
    delivery_id = test.delivery.delivery_id

    async def seen(caller: Any) -> tuple[list[str], list[str]]:
        hooks = (await caller.ListWebhooks(pb.ListWebhooksRequest())).webhooks
        sent = (await caller.ListDeliveries(pb.ListDeliveriesRequest())).deliveries
        return (
            [f"{hook.project}.{hook.name}" for hook in hooks],
            [f"{delivery.project}.{delivery.target}" for delivery in sent],
        )

    assert await seen(mine) == (["mine.ops"], [])
    assert await seen(theirs) == (["theirs.secret"], ["theirs.secret"])
    assert await seen(admin) == (["mine.ops", "theirs.secret"], ["theirs.secret"])
    for request in (pb.ListWebhooksRequest, pb.ListDeliveriesRequest):
        method = getattr(mine, request.__name__.removesuffix("Request"))
        assert await code_of(method(request(project="theirs"))) is NOT_FOUND
    for call in (
        mine.RetryDelivery(pb.RetryDeliveryRequest(delivery_id=delivery_id)),
        mine.RetryDelivery(pb.RetryDeliveryRequest(delivery_id=delivery_id + 1)),
        mine.TestWebhook(pb.TestWebhookRequest(name="secret")),
        mine.DeleteWebhook(pb.DeleteWebhookRequest(name="secret")),
    ):
        assert await code_of(call) is NOT_FOUND
    dead = theirs.RetryDelivery(pb.RetryDeliveryRequest(delivery_id=delivery_id))
    assert await code_of(dead) is grpc.StatusCode.FAILED_PRECONDITION
