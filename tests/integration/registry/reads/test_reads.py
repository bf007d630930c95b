"""What every read promises, asked of each by its descriptor: a new one is asked, too."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

sys.path.insert(0, str(Path(__file__).parents[1]))

from google.rpc import error_details_pb2, status_pb2
from traffic import connect, external_job

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.rpc.pages import decode, encode
from vistaflow_services.registry.__main__ import Registry

SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"]
CHANGES = {"AnnounceService", "CreateToken", "RevokeToken"}
"""Calls that change something and have no `request_id`."""

BESIDE_THE_LOG = {"GetServerInfo", "ListRequests", "ListTokens"}
"""Reads of what has no revision."""

UNARY: list[MethodDescriptor] = [
    each
    for each in SERVICE.methods
    if not (each.client_streaming or each.server_streaming)
    and "request_id" not in each.input_type.fields_by_name
    and each.name not in CHANGES
]
READS = [each for each in UNARY if each.name not in BESIDE_THE_LOG]
PAGED = [each for each in UNARY if "page_size" in each.input_type.fields_by_name]
TREES = [
    each
    for each in READS
    if "page_size" in each.input_type.fields_by_name
    and {"kit_id", "job_id"} & set(each.input_type.fields_by_name)
]
"""What comes in pages only where it does not fit one answer."""

LISTS = [each for each in PAGED if each not in TREES]
MOST_ROWS = {"ListStates": 5000, "ListRequests": 200}
"""Rows of the largest page, where it is not 1,000."""


def names(methods: list[MethodDescriptor]) -> list[str]:
    return [each.name for each in methods]


def request_of(method: MethodDescriptor, **fields: Any) -> Any:
    return getattr(pb, method.input_type.name)(**fields)


def needed(method: MethodDescriptor, kit_id: int, job_id: str) -> dict[str, Any]:
    """What a read must be asked with."""
    known = {"kit_id": kit_id, "job_id": job_id}
    return {name: known[name] for name in known if name in method.input_type.fields_by_name}


def mistakes(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """What is wrong with a request, by field."""
    ((_, packed),) = [
        pair for pair in error.trailing_metadata() or () if pair[0] == "grpc-status-details-bin"
    ]
    found = {}
    for detail in status_pb2.Status.FromString(packed).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found |= {each.field: each.description for each in bad.field_violations}
    return found


def test_the_reads_are_those_that_are_known() -> None:
    assert set(names(READS)) == {
        "GetLineage", "GetKit", "GetJob", "DiffKit", "ListKits", "ListJobs", "ListStates",
    }  # fmt: skip
    assert set(names(LISTS)) == {
        "ListKits", "ListJobs", "ListStates", "ListTokens", "ListRequests",
    }  # fmt: skip
    assert set(names(TREES)) == {"GetKit", "GetJob", "DiffKit"}


@pytest.mark.parametrize("method", READS, ids=names(READS))
def test_every_read_of_the_log_can_be_asked_for_a_revision(method: MethodDescriptor) -> None:
    field = method.input_type.fields_by_name.get("min_revision")
    assert field is not None, f"{method.name} reads the log: give it a min_revision"
    assert field.type == FieldDescriptor.TYPE_INT64
    told = method.output_type.fields_by_name
    assert "revision" in told or "to_revision" in told, "tell how new the answer is"


@pytest.mark.parametrize("method", READS, ids=names(READS))
async def test_a_read_waits_for_the_revision_it_is_asked_for(
    method: MethodDescriptor, running: Registry
) -> None:
    channel, stub = connect(running.address)
    async with channel:
        kit_id, job_id = await external_job(stub)
        fields = needed(method, kit_id, job_id)
        call = getattr(stub, method.name)
        head = running.hub.head
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request_of(method, **fields, min_revision=-1))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "min_revision" in mistakes(refused.value)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request_of(method, **fields, min_revision=head + 1), timeout=2.0)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert f"revision {head + 1} is not reached" in (refused.value.details() or "")

        reading = asyncio.ensure_future(
            call(request_of(method, **fields, min_revision=head + 1), timeout=60)
        )
        await asyncio.sleep(0.1)
        assert not reading.done()
        state = common.State(job_id=job_id, status=common.STATUS_RUNNING, task_name="t")
        await stub.AppendStates(pb.AppendStatesRequest(states=[state]))
        answer = await reading
        told = answer.to_revision if method.name == "DiffKit" else answer.revision
        assert told >= head + 1


@pytest.mark.parametrize("method", PAGED, ids=names(PAGED))
async def test_no_page_is_larger_than_its_cap(method: MethodDescriptor, running: Registry) -> None:
    channel, stub = connect(running.address)
    async with channel:
        fields = needed(method, *await external_job(stub)) if method in TREES else {}
        call = getattr(stub, method.name)
        most = 100_000 if method in TREES else MOST_ROWS.get(method.name, 1000)
        await call(request_of(method, page_size=most, **fields))
        for size in (most + 1, 2**31 - 1, -1):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(request_of(method, page_size=size, **fields))
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert f"{most:,}" in mistakes(refused.value)["page_size"]


@pytest.mark.parametrize("method", LISTS, ids=names(LISTS))
async def test_a_page_token_is_good_for_its_own_query_only(
    method: MethodDescriptor, running: Registry
) -> None:
    channel, stub = connect(running.address)
    async with channel:
        await external_job(stub)
        call = getattr(stub, method.name)
        token = encode(10, request_of(method))
        await call(request_of(method, page_token=token, page_size=7))
        if "min_revision" in method.input_type.fields_by_name:
            await call(request_of(method, page_token=token, min_revision=1))
        others = [*variations(method), request_of(method, page_token="@@"),
                  request_of(method, page_token=token[:-2])]  # fmt: skip
        assert method.name == "ListTokens" or len(others) > 5
        for other in others:
            other.page_token = other.page_token or token
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(other)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, other
            assert "page_token" in mistakes(refused.value), other
        elsewhere = next(each for each in LISTS if each is not method)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(request_of(method, page_token=encode(10, request_of(elsewhere))))


@pytest.mark.parametrize("method", TREES, ids=names(TREES))
async def test_a_page_token_of_a_tree_is_good_for_that_tree_only(
    method: MethodDescriptor, running: Registry
) -> None:
    channel, stub = connect(running.address)
    async with channel:
        made = [await external_job(stub) for _ in range(2)]
        states = [common.State(job_id=made[0][1], status=3, task_name=name) for name in "abc"]
        await stub.AppendStates(pb.AppendStatesRequest(states=states))
        trees = [needed(method, *each) for each in made]
        call = getattr(stub, method.name)
        first = await call(request_of(method, page_size=1, **trees[0]))
        token = first.next_page_token
        assert token
        await call(request_of(method, page_size=7, page_token=token, min_revision=1, **trees[0]))
        for wrong in (
            request_of(method, page_token=token, **trees[1]),
            request_of(method, page_token="@@", **trees[0]),
            request_of(method, page_token=token[:-2], **trees[0]),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(wrong)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "page_token" in mistakes(refused.value)


def variations(method: MethodDescriptor) -> Iterator[Any]:
    """The same list asked for with one more filter, each there is."""
    for field in method.input_type.fields:
        if field.name in ("page_size", "page_token", "min_revision"):
            continue
        if field.name == "filter":
            for inner in field.message_type.fields:
                request = request_of(method)
                put(request.filter, inner)
                yield request
        else:
            request = request_of(method)
            put(request, field)
            yield request


def put(message: Any, field: FieldDescriptor) -> None:
    """Gives a field a value that is valid."""
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value["a"] = "b"
    elif field.message_type is not None:
        value.FromSeconds(int(time.time()) - 3600)
    elif field.is_repeated:
        text = field.type == FieldDescriptor.TYPE_STRING
        value.append("00000000-0000-4000-8000-000000000000" if text else 1)
    else:
        setattr(message, field.name, "x" if field.type == FieldDescriptor.TYPE_STRING else 1)


def test_a_token_holds_its_key_whatever_the_page_size() -> None:
    from vistaflow_services.core.errors import Violations

    request = pb.ListKitsRequest(project="p", labels={"b": "1", "a": "2"})
    token = encode(2**40, request)
    again = pb.ListKitsRequest(project="p", labels={"a": "2", "b": "1"}, page_size=3)
    again.page_token = token
    assert decode(again, Violations()) == 2**40
