"""Tokens: made, kept as digests, ended by time or by hand."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf import duration_pb2
from keys import Keys, code_of, id_of, new_kit

from vistaflow.aio import AsyncClient
from vistaflow.api.common.v1 import access_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow.errors import UnauthenticatedError
from vistaflow_services.core.door.tokens import KEPT_SECONDS, digest_of
from vistaflow_services.registry.__main__ import Registry

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


async def test_only_the_digest_of_a_token_is_kept(keys: Keys, database: str) -> None:
    admin = await keys.stub("ADMIN")
    request = pb.CreateTokenRequest(
        name="ci",
        role=access_pb2.ROLE_EDITOR,
        project="mine",
        lifetime=duration_pb2.Duration(seconds=3600),
    )

    made = await admin.CreateToken(request)

    assert made.token.expires_at.seconds - made.token.created_at.seconds == pytest.approx(3600, 2)
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT t::text, secret_sha256 FROM vistadb_test.tokens t")
        kept = {row[0]: bytes(row[1]) for row in rows.fetchall()}
    assert digest_of(made.secret) in kept.values()
    assert not any(made.secret.rpartition(".")[2] in text for text in kept)
    assert len(made.secret.rpartition(".")[2]) == 43  # 256 bits, in base64


async def test_tokens_are_listed_without_their_secrets_newest_first(keys: Keys) -> None:
    admin = await keys.stub("ADMIN")
    for name in ("one", "two"):
        await admin.CreateToken(
            pb.CreateTokenRequest(name=name, role=access_pb2.ROLE_VIEWER, project="mine")
        )

    first = await admin.ListTokens(pb.ListTokensRequest(page_size=2))
    rest = await admin.ListTokens(pb.ListTokensRequest(page_token=first.next_page_token))

    assert [each.name for each in first.tokens] == ["two", "one"]
    assert [each.name for each in rest.tokens] == ["ADMIN of everything"]


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.CreateTokenRequest(), ["role", "name", "project"]),
        (pb.CreateTokenRequest(name="a", role=3, project="mine"), ["project"]),
        (pb.CreateTokenRequest(name="a", role=4, project="mine"), ["project"]),
        (pb.CreateTokenRequest(name="a", role=1), ["project"]),
        (pb.CreateTokenRequest(name="a", role=1, project="No such"), ["project"]),
        (pb.CreateTokenRequest(name="a", role=9, project="mine"), ["role"]),
        (
            pb.CreateTokenRequest(name="a", role=3, lifetime=duration_pb2.Duration(seconds=59)),
            ["lifetime"],
        ),
    ],
    ids=["empty", "admin of one", "worker of one", "viewer of all", "bad", "no role", "short"],
)
async def test_a_token_that_cannot_be_is_refused_field_by_field(
    keys: Keys, request_: Any, fields: list[str]
) -> None:
    admin = await keys.stub("ADMIN")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await admin.CreateToken(request_)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert all(f"{field}: " in (caught.value.details() or "") for field in fields)


async def test_a_token_whose_text_was_lost_is_asked_for_again_and_the_lost_text_ends(
    keys: Keys, database: str
) -> None:
    admin = await keys.stub("ADMIN")
    request = pb.CreateTokenRequest(
        name="ci", role=access_pb2.ROLE_VIEWER, project="mine", request_id=str(uuid.uuid4())
    )
    lost = await admin.CreateToken(request)
    stub = pb_stub(keys.channel(lost.secret))
    assert await code_of(stub.ListKits(pb.ListKitsRequest())) is grpc.StatusCode.OK
    stream = await watch(stub)

    again = await admin.CreateToken(request)

    assert (lost.replayed, again.replayed) == (False, True)
    assert again.token == lost.token
    assert again.secret != lost.secret
    assert id_of(again.secret) == id_of(lost.secret) == again.token.token_id
    assert await code_of(stub.ListKits(pb.ListKitsRequest())) is UNAUTHENTICATED
    async with asyncio.timeout(60):
        assert (await stream.read()).end.code == pb.END_REASON_UNAUTHENTICATED
    fresh = pb_stub(keys.channel(again.secret))
    assert await code_of(fresh.ListKits(pb.ListKitsRequest())) is grpc.StatusCode.OK
    listed = (await admin.ListTokens(pb.ListTokensRequest())).tokens
    assert [each.name for each in listed] == ["ci", "ADMIN of everything"]
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT r::text FROM vistadb_test.request_info r").fetchall()
    secrets = [each.secret.rpartition(".")[2] for each in (lost, again)]
    assert not [row for (row,) in rows if any(secret in row for secret in secrets)]


async def test_a_request_for_a_token_stands_for_one_token_that_is_valid(keys: Keys) -> None:
    admin = await keys.stub("ADMIN")
    request = pb.CreateTokenRequest(
        name="ci", role=access_pb2.ROLE_VIEWER, project="mine", request_id=str(uuid.uuid4())
    )
    made = await admin.CreateToken(request)
    other = pb.CreateTokenRequest(
        name="ci", role=access_pb2.ROLE_ADMIN, request_id=request.request_id
    )
    kit = pb.CreateKitRequest(name="a", request_id=request.request_id)
    for call in (admin.CreateToken(other), admin.CreateKit(kit)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS

    await admin.RevokeToken(pb.RevokeTokenRequest(token_id=made.token.token_id))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await admin.CreateToken(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "revoked or has expired" in (caught.value.details() or "")


async def test_the_client_asks_again_for_a_token_whose_answer_was_lost(keys: Keys) -> None:
    token = await keys.make("ADMIN")
    async with AsyncClient(keys.registry.address, token=token) as client:
        request_id = str(uuid.uuid4())
        first, _ = await client.create_token("ci", "ADMIN", request_id=request_id)
        made, text = await client.create_token("ci", "ADMIN", request_id=request_id)
        assert first == made
        async with AsyncClient(keys.registry.address, token=text) as other:
            (newest, *_) = await other.tokens()
            assert newest.name == "ci"


async def test_a_revoked_token_is_refused_within_seconds_here_and_at_another_replica(
    keys: Keys, serve: Any, database: str
) -> None:
    token = await keys.make("VIEWER", "mine")
    admin = await keys.stub("ADMIN")
    async with serve(database) as other:
        stubs = [
            pb_stub(keys.channel(token)),
            pb_stub(keys.channel(token, other.address)),
        ]
        for stub in stubs:
            assert await code_of(stub.ListKits(pb.ListKitsRequest())) is grpc.StatusCode.OK

        await admin.RevokeToken(pb.RevokeTokenRequest(token_id=id_of(token)))
        begun = time.monotonic()

        assert await code_of(stubs[0].ListKits(pb.ListKitsRequest())) is UNAUTHENTICATED
        await asyncio.sleep(max(0, begun + KEPT_SECONDS + 0.2 - time.monotonic()))
        assert await code_of(stubs[1].ListKits(pb.ListKitsRequest())) is UNAUTHENTICATED


async def watch(stub: Any) -> Any:
    call = stub.WatchStates(pb.WatchStatesRequest())
    assert (await call.read()).HasField("synced")
    return call


@pytest.mark.parametrize("how", ["revoked here", "revoked elsewhere", "expired"])
async def test_a_watch_ends_with_unauthenticated_when_its_token_does(
    keys: Keys, guarded: Registry, how: str
) -> None:
    token = await keys.make("VIEWER", "mine", seconds=4.0 if how == "expired" else None)
    call = await watch(pb_stub(keys.channel(token)))
    if how == "revoked here":
        admin = await keys.stub("ADMIN")
        await admin.RevokeToken(pb.RevokeTokenRequest(token_id=id_of(token)))
    elif how == "revoked elsewhere":
        await keys.store.revoke(uuid.UUID(id_of(token)))

    async with asyncio.timeout(60):
        message = await call.read()

    assert message.end.code == pb.END_REASON_UNAUTHENTICATED
    assert await call.read() is grpc.aio.EOF


async def test_a_stream_that_does_not_end_by_itself_is_ended_with_unauthenticated(
    keys: Keys,
) -> None:
    token = await keys.make("WORKER")
    call = pb_stub(keys.channel(token)).LeaseJobs()
    hello = pb.WorkerHello(worker="w", job_types=[2], capacity=1)
    await call.write(pb.LeaseJobsRequest(hello=hello))
    assert (await call.read()).HasField("welcome")

    admin = await keys.stub("ADMIN")
    await admin.RevokeToken(pb.RevokeTokenRequest(token_id=id_of(token)))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(60):
            await call.read()
    assert caught.value.code() is UNAUTHENTICATED


async def test_the_client_shows_its_token_and_its_watch_raises_once_that_is_revoked(
    keys: Keys,
) -> None:
    token = await keys.make("EDITOR", "mine")
    async with AsyncClient(keys.registry.address, token=token) as client:
        kit = await client.create_kit("a", ["DOE"])
        assert kit.project == "mine"
        admin = await keys.stub("ADMIN")
        events = aiter(client.watch())
        await anext(events)
        await admin.RevokeToken(pb.RevokeTokenRequest(token_id=id_of(token)))
        with pytest.raises(UnauthenticatedError):
            await asyncio.wait_for(until_silent(events), 60)
    async with AsyncClient(keys.registry.address) as client:
        with pytest.raises(UnauthenticatedError, match="VISTAFLOW_TOKEN"):
            await client.kit(kit.kit_id)


async def test_the_registry_tells_a_caller_what_its_token_is(keys: Keys) -> None:
    viewer = await keys.stub("VIEWER", "mine")

    caller = (await viewer.GetServerInfo(pb.GetServerInfoRequest())).caller

    assert (caller.project, caller.role) == ("mine", access_pb2.ROLE_VIEWER)


async def test_without_auth_everybody_is_an_administrator(registry: str) -> None:
    async with grpc.aio.insecure_channel(registry) as channel:
        stub = pb_stub(channel)
        kits = [await new_kit(stub, project=each) for each in ("mine", "theirs")]
        listed = (await stub.ListKits(pb.ListKitsRequest())).kits
        assert {each.kit_id for each in listed} == {each.kit_id for each in kits}
        assert (await stub.ListTokens(pb.ListTokensRequest())).tokens == []


async def until_silent(events: Any) -> None:
    async for _ in events:
        pass


def pb_stub(channel: grpc.aio.Channel) -> Any:
    return RegistryServiceStub(channel)
