"""The audit trail: who asked for what, and for how long it is known."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import psycopg
from google.protobuf import json_format

from tests.integration.stages import refused
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.registry.access.trail import shown
from vistaflow_services.registry.config import Config


async def listed(client: RegistryClient, **fields: Any) -> list[tuple[str, str, int]]:
    """Actor, method and kit of each request that matches, newest first, over pages of two."""
    request = pb.ListRequestsRequest(page_size=2, **fields)
    rows: list[tuple[str, str, int]] = []
    while True:
        answer = await client.call(client.stub.ListRequests, request)
        rows += [(record.actor, record.method, record.kit_id) for record in answer.requests]
        request.page_token = answer.next_page_token
        if not request.page_token:
            return rows


async def test_requests_are_found_by_actor_method_kit_and_time(registry: str) -> None:
    client = RegistryClient(registry)
    stub, began = client.stub, datetime.now(UTC)
    for name in ("one", "two"):
        job = pb.NewJob(name="query", job_type=common.JOB_TYPE_QUERY)
        await stub.CreateKit(pb.CreateKitRequest(name=name, jobs=[job], actor="ann"))
    await stub.CancelKit(pb.CancelKitRequest(kit_id=1, actor="bob", reason="not needed"))
    job = pb.NewJob(name="more", job_type=common.JOB_TYPE_QUERY)
    await stub.CreateJob(pb.CreateJobRequest(kit_id=2, job=job, actor="bob"))
    token = await stub.CreateToken(
        pb.CreateTokenRequest(name="ann's", role="ROLE_EDITOR", project="default")
    )
    await stub.RevokeToken(pb.RevokeTokenRequest(token_id=token.token.token_id))

    assert await listed(client) == [
        ("", "RevokeToken", 0),
        ("", "CreateToken", 0),
        ("bob", "CreateJob", 2),
        ("bob", "CancelKit", 1),
        ("ann", "CreateKit", 2),
        ("ann", "CreateKit", 1),
    ]
    assert await listed(client, actor="bob", kit_id=1) == [("bob", "CancelKit", 1)]
    assert await listed(client, method="CreateKit") == [("ann", "CreateKit", kit) for kit in (2, 1)]
    assert await listed(client, answered_before=began) == []
    assert len(await listed(client, answered_after=began)) == 6
    request = pb.ListRequestsRequest(method="CancelKit")
    (record,) = (await client.call(stub.ListRequests, request)).requests
    assert json_format.MessageToDict(record.request) == {
        "kit_id": 1.0, "actor": "bob", "reason": "not needed",
    }  # fmt: skip
    answer = json_format.MessageToDict(record.answer)
    assert (answer["kit"]["status"], answer["canceled_count"]) == ("STATUS_CANCELED", 1.0)
    everything = await client.call(stub.ListRequests, pb.ListRequestsRequest())
    assert token.secret not in str(everything)
    code, mistakes = await refused(stub.ListRequests(pb.ListRequestsRequest(kit_id=-1)))
    assert (code, list(mistakes)) == (grpc.StatusCode.INVALID_ARGUMENT, ["kit_id"])
    await client.close()


async def test_an_id_is_forgotten_before_its_request(database: str, serve: Any) -> None:
    async with serve(database, Config(lease_seconds=2.0, audit_days=30)) as registry:
        client = RegistryClient(registry.address)
        stub: RegistryServiceStub = client.stub
        request = pb.CreateKitRequest(name="one", actor="ann", request_id=str(uuid.uuid4()))
        for _ in range(2):
            assert (await stub.CreateKit(request)).kit.kit_id == 1
        row = common.State(job_id=str(uuid.uuid4()), status=common.STATUS_RUNNING)
        append = pb.AppendStatesRequest(request_id=str(uuid.uuid4()), states=[row])
        await stub.AppendStates(append)
        assert len(await listed(client, method="AppendStates")) == 1
        journal = registry.ledger._journal
        for days, records, kit_id in ((8, 2, 2), (31, 1, 3)):
            with psycopg.connect(database) as connection:
                connection.execute(
                    "UPDATE vistadb_test.request_info "
                    f"SET created_at = created_at - interval '{days} days'"
                )
            await journal.forget_requests(7 * 86_400, 30 * 86_400)
            assert (await stub.CreateKit(request)).kit.kit_id == kit_id
            found = await listed(client) + await listed(client, method="AppendStates")
            assert found == [("ann", "CreateKit", kit_id - n) for n in range(records)]
        await client.close()


def test_secrets_and_the_content_of_specs_are_left_out() -> None:
    record = {
        "job": {"spec": {"type_url": "a/b", "value": "00ff"}, "labels": {"owner": "ann"}},
        "hooks": [{"signing_secret": "s", "PASSWORD": "p", "url": "http://x"}],
    }
    assert shown(record) == {
        "job": {"spec": {"type_url": "a/b"}, "labels": {"owner": "ann"}},
        "hooks": [{"signing_secret": "…", "PASSWORD": "…", "url": "http://x"}],
    }
