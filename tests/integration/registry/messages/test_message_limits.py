"""The largest that may be written is read by anybody, and what is larger is refused by its field.

A stock client takes 4 MiB a message; ours puts pages together.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import vistaflow.aio
from vistaflow import Delta, Synced
from vistaflow._rpc import paging
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core import message_limits as limits
from vistaflow_services.core import names
from vistaflow_services.registry import domain
from vistaflow_services.registry.messages.varint import varint

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNNING = common.STATUS_RUNNING
EMOJI = "\U0001f600"


@asynccontextmanager
async def stock(address: str) -> AsyncIterator[Any]:
    """Calls as from any gRPC client that was told nothing: it takes 4 MiB a message."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield RegistryServiceStub(channel)


async def refused(call: Any) -> dict[str, str]:
    """What is wrong with a request, by field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return {each.field: each.description for each in bad.field_violations}


def text(size: int) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made["text"] = "x" * (size - len('{"text":""}'))
    return made


def numbers(size: int) -> struct_pb2.Struct:
    """JSON that takes most room as a Struct."""
    made = struct_pb2.Struct()
    made["n"] = [1] * ((size - len('{"n":[]}') + 1) // 2)
    return made


def nulls(size: int) -> struct_pb2.Struct:
    """Values of no kind, which are delivered as null."""
    made = struct_pb2.Struct()
    values = [struct_pb2.Value()] * ((size - len('{"n":[]}') + 1) // 5)
    made.fields["n"].list_value.values.extend(values)
    return made


def letters(size: int) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made["t"] = EMOJI * ((size - len('{"t":""}')) // 4)
    return made


def nested(levels: int) -> struct_pb2.Struct:
    """Objects so many levels deep, which nest three messages each."""
    made = struct_pb2.Struct()
    level = made
    for _ in range(levels - 1):
        level = level.fields["a"].struct_value
    level["z"] = 1
    return made


SHAPES = [text, numbers, nulls, letters]


async def new_job(stub: Any) -> tuple[int, str, int]:
    """A kit with an external job that runs; its id, the job's, and the revision."""
    request = pb.CreateKitRequest(name="k", jobs=[pb.NewJob(job_type=2)])
    kit = (await stub.CreateKit(request)).kit
    row = common.State(job_id=kit.jobs[0].job_id, status=RUNNING)
    answer = await stub.AppendStates(pb.AppendStatesRequest(states=[row]))
    return kit.kit_id, kit.jobs[0].job_id, answer.revision


def largest_append(job_id: str, shape: Callable[[int], struct_pb2.Struct]) -> list[common.State]:
    """As many rows of the largest metadata as one append may have."""
    metadata = shape(domain.MAX_METADATA_BYTES)
    size = 2 * len(metadata.fields["n"].list_value.values) if shape is nulls else 0
    row = common.State(
        job_id=job_id,
        status=RUNNING,
        actor=EMOJI * 200,
        reason=EMOJI * 4096,
        task_name="0000" + "ü" * 96,
        metadata=metadata,
    )
    size += row.ByteSize() + 8 + limits.ROW_BYTES
    states = []
    for number in range(limits.APPEND_BYTES // size):
        row.task_name = f"{number:04}" + "ü" * 96
        states.append(common.State.FromString(row.SerializeToString()))
    return states


async def read_everywhere(address: str, kit_id: int, job_id: str, after: int, count: int) -> None:
    """The rows of tasks of a job come to every kind of stock reader, an append in one message."""
    async with stock(address) as stub:
        wanted = pb.StateFilter(kit_ids=[kit_id])
        rows = 0
        async for message in stub.WatchStates(
            pb.WatchStatesRequest(filter=wanted, after_revision=after)
        ):
            if message.HasField("synced"):
                break
            assert not message.delta.partial
            rows += len(message.delta.states)
        assert rows == count
        call = stub.WatchMany()
        snapshot = pb.WatchStatesRequest(filter=wanted, include_snapshot=True)
        for name, watch in (
            ("n" * 100, pb.WatchStatesRequest(filter=wanted, after_revision=after)),
            (EMOJI * 100, snapshot),
        ):
            opened = pb.OpenWatch(name=name, watch=watch)
            await call.write(pb.WatchManyRequest(open=opened))
        seen = {"n" * 100: 0, EMOJI * 100: 0}
        left = set(seen)
        while left:
            message = await call.read()
            for told in (message.event.delta, message.event.snapshot):
                seen[message.name] += len(told.states)
            if message.event.HasField("synced"):
                left.discard(message.name)
        call.cancel()
        assert set(seen.values()) == {count, count + 1}
        listed, token = 0, ""
        while True:
            page = await stub.ListStates(
                pb.ListStatesRequest(
                    filter=wanted, after_revision=after, page_size=5000, page_token=token
                )
            )
            listed += len(page.states)
            if not (token := page.next_page_token):
                break
        assert listed == count
        trees: list[tuple[Any, Any]] = [
            (stub.GetKit, pb.GetKitRequest(kit_id=kit_id)),
            (stub.GetKit, pb.GetKitRequest(kit_id=kit_id, as_of_revision=after + count)),
            (stub.GetJob, pb.GetJobRequest(job_id=job_id)),
            (stub.DiffKit, pb.DiffKitRequest(kit_id=kit_id, from_revision=after)),
        ]
        for method, request in trees:
            answer = await paging.whole(method, request)
            if isinstance(answer, pb.DiffKitResponse):
                assert len(answer.changes) == count
            else:
                job = answer.kit.jobs[0] if isinstance(answer, pb.GetKitResponse) else answer.job
                assert len(job.tasks) == job.task_counts.running_count == count


async def read_by_our_client(
    address: str, kit_id: int, job_id: str, after: int, count: int
) -> None:
    """The same rows through the client, which puts pages together."""
    async with vistaflow.aio.connect(address) as client:
        assert len((await client.kit(kit_id)).jobs[0].tasks) == count
        assert len((await client.job(job_id)).tasks) == count
        assert len((await client.diff_kit(kit_id, after)).changes) == count
        states = client.states(kit_ids=[kit_id], after_revision=after)
        assert len([row async for row in states]) == count
        deltas = []
        async for event in client.watch(kit_ids=[kit_id], after_revision=after):
            if isinstance(event, Synced):
                break
            assert isinstance(event, Delta)
            deltas.append(len(event.states))
        assert deltas == [count]


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_largest_append_is_delivered_in_one_message_and_read_by_everybody(
    module_registry: str, shape: Callable[[int], struct_pb2.Struct]
) -> None:
    async with stock(module_registry) as stub:
        kit_id, job_id, revision = await new_job(stub)
        states = largest_append(job_id, shape)
        live = stub.WatchStates(
            pb.WatchStatesRequest(filter={"kit_ids": [kit_id]}, after_revision=revision)
        )
        assert (await live.read()).HasField("synced")
        request = pb.AppendStatesRequest(states=states, request_id=str(uuid.uuid4()))
        answer = await stub.AppendStates(request, timeout=60)
        assert {each.verdict for each in answer.results} == {pb.VERDICT_ACCEPTED}
        while not (message := await live.read()).HasField("delta"):
            pass
        assert len(message.delta.states) == len(states)
        live.cancel()
        again = await stub.AppendStates(request, timeout=60)
        assert again.replayed
        assert again.results == answer.results

        more = common.State()
        more.CopyFrom(states[0])
        too_many = pb.AppendStatesRequest(states=[*states, more, more])
        told = await refused(stub.AppendStates(too_many, timeout=60))
        assert set(told) == {"states"}
        assert "several" in told["states"]
        whole = await paging.whole(stub.GetKit, pb.GetKitRequest(kit_id=kit_id))
        assert len(whole.kit.jobs[0].tasks) == len(states)
    if shape is not nulls:
        await read_everywhere(module_registry, kit_id, job_id, revision, len(states))
    if shape in (text, letters):  # Python takes seconds for so many numbers
        await read_by_our_client(module_registry, kit_id, job_id, revision, len(states))


async def test_the_largest_message_of_a_stream_is_taken_and_a_larger_one_refused(
    module_registry: str,
) -> None:
    async with stock(module_registry) as stub:
        _, job_id, _ = await new_job(stub)
        states = largest_append(job_id, text)
        stream = stub.StreamStates()
        assert (await stream.read()).credit.row_count >= len(states)
        await stream.write(pb.StreamStatesRequest(number=1, states=states))
        while not (message := await stream.read()).HasField("ack"):
            pass
        assert {each.verdict for each in message.ack.results} == {pb.VERDICT_ACCEPTED}
        await stream.write(pb.StreamStatesRequest(number=2, states=[*states, *states[:2]]))
        told = await refused(ended(stream))
        assert set(told) == {"states"}


async def ended(stream: Any) -> None:
    """Reads a stream to its end, which raises how it ended."""
    while await stream.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("kilobytes", [4_300, 8_000, 15_900, 19_000])
async def test_an_append_of_many_megabytes_is_refused_with_what_to_do_instead(
    module_registry: str, kilobytes: int
) -> None:
    async with stock(module_registry) as stub:
        _, job_id, revision = await new_job(stub)
        states = [
            common.State(job_id=job_id, status=RUNNING, task_name=f"t{n}", metadata=text(kilobytes))
            for n in range(1000)
        ]
        told = await refused(stub.AppendStates(pb.AppendStatesRequest(states=states), timeout=60))
        assert set(told) == {"states"}
        assert "several" in told["states"]
        assert (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision == revision


@pytest.mark.parametrize(
    ("metadata", "wrong"),
    [
        (nested(limits.NESTING + 1), "31 levels"),
        (text(domain.MAX_METADATA_BYTES + 1), "64 KiB"),
        (numbers(domain.MAX_METADATA_BYTES + 2), "64 KiB"),
        (numbers(10 * domain.MAX_METADATA_BYTES), "64 KiB"),
        (numbers(40 * domain.MAX_METADATA_BYTES), "at most"),
    ],
    ids=["deep", "long", "numbers", "large", "huge"],
)
async def test_metadata_beyond_its_limits_is_refused_by_its_field(
    module_registry: str, metadata: struct_pb2.Struct, wrong: str
) -> None:
    async with stock(module_registry) as stub:
        _, job_id, _ = await new_job(stub)
        row = common.State(job_id=job_id, status=RUNNING, task_name="t", metadata=metadata)
        for request in (
            pb.AppendStatesRequest(states=[row]),
            pb.AppendStatesRequest(states=[row], request_id=str(uuid.uuid4())),
        ):
            told = await refused(stub.AppendStates(request))
            assert list(told) == ["states[0].metadata"]
            assert wrong in told["states[0].metadata"]


@pytest.mark.parametrize("rows_before", [0, 900], ids=["small", "large"])
async def test_metadata_too_deep_for_the_parser_is_refused_by_its_field(
    module_registry: str, rows_before: int
) -> None:
    value = b"\x11" + bytes(8)
    for _ in range(40):
        entry = b"\x0a\x01a" + _held(b"\x12", value)
        value = _held(b"\x2a", _held(b"\x0a", entry))
    metadata = value[1 + len(varint(len(value))) :]
    async with stock(module_registry) as stub:
        _, job_id, _ = await new_job(stub)
    before = common.State(job_id=job_id, task_name="t", status=RUNNING, metadata=text(300))
    rows = [before.SerializeToString()] * rows_before
    rows.append(_held(bytes([common.State.METADATA_FIELD_NUMBER << 3 | 2]), metadata))
    tag = bytes([pb.AppendStatesRequest.STATES_FIELD_NUMBER << 3 | 2])
    body = b"".join(_held(tag, row) for row in rows)
    async with grpc.aio.insecure_channel(module_registry) as channel:
        append = channel.unary_unary("/vistaflow.api.registry.v1.RegistryService/AppendStates")
        told = await refused(append(body))
    assert list(told) == [f"states[{rows_before}].metadata"]
    assert "31 levels" in told[f"states[{rows_before}].metadata"]


def _held(tag: bytes, content: bytes) -> bytes:
    """A field in wire form: the library makes no message as deep as this."""
    return tag + varint(len(content)) + content


async def test_metadata_as_deep_as_allowed_is_read_everywhere(module_registry: str) -> None:
    async with stock(module_registry) as stub:
        kit_id, job_id, revision = await new_job(stub)
        row = common.State(
            job_id=job_id, status=RUNNING, task_name="t", metadata=nested(limits.NESTING)
        )
        await stub.AppendStates(pb.AppendStatesRequest(states=[row]))
        task = (await stub.GetJob(pb.GetJobRequest(job_id=job_id))).job.tasks[0]
        assert task.metadata == row.metadata
    await read_everywhere(module_registry, kit_id, job_id, revision, 1)
    await read_by_our_client(module_registry, kit_id, job_id, revision, 1)


def packed(size: int) -> any_pb2.Any:
    return any_pb2.Any(type_url="a/b", value=bytes(size))


async def test_the_largest_kit_is_answered_whole_and_one_job_more_is_refused(
    module_registry: str,
) -> None:
    labels = {f"{n:03}" + EMOJI * 60: EMOJI * 255 for n in range(names.MAX_LABELS)}
    request = pb.CreateKitRequest(
        name=EMOJI * 200,
        labels=labels,
        spec=numbers(domain.MAX_KIT_SPEC_BYTES),
        request_id=str(uuid.uuid4()),
        actor=EMOJI * 200,
    )
    assert request.spec.ByteSize() > 5 * domain.MAX_KIT_SPEC_BYTES
    size = request.ByteSize()
    new = pb.NewJob(job_type=2, spec=packed(60_000))
    count = 0
    while True:
        new.name = f"{count:04}" + "j" * 96
        size += new.ByteSize() + 4 + 160 + 810
        if size > limits.KIT_BYTES:
            break
        request.jobs.append(new)
        count += 1
    async with stock(module_registry) as stub:
        made = await stub.CreateKit(request, timeout=60)
        kit_id = made.kit.kit_id
        assert len(made.kit.jobs) == count
        again = await stub.CreateKit(request, timeout=60)
        assert again.replayed
        again.replayed = False
        assert again == made
        whole = await paging.whole(stub.GetKit, pb.GetKitRequest(kit_id=kit_id))
        assert whole.kit == made.kit

        request.jobs.append(new)
        request.request_id = ""
        assert set(await refused(stub.CreateKit(request, timeout=60))) == {"jobs"}

        for method, asked in (
            (stub.ListKits, pb.ListKitsRequest(page_size=1000)),
            (stub.ListJobs, pb.ListJobsRequest(page_size=1000)),
        ):
            found, tokens = 0, 0
            while True:
                page = await method(asked)
                found += len(page.kits if isinstance(page, pb.ListKitsResponse) else page.jobs)
                tokens += 1
                if not (token := page.next_page_token):
                    break
                asked.page_token = token
            assert found >= (count if isinstance(page, pb.ListJobsResponse) else 1)
        watch = pb.WatchStatesRequest(filter={"kit_ids": [kit_id]}, include_snapshot=True)
        kits = 0
        async for message in stub.WatchStates(watch):
            kits += len(message.snapshot.kits)
            if message.HasField("synced"):
                break
        assert kits == 1
        canceled = await stub.CancelKit(pb.CancelKitRequest(kit_id=kit_id, reason=EMOJI * 4096))
        assert canceled.canceled_count == count
        assert len(canceled.kit.jobs) + canceled.kit.omitted_job_count == count
        many = await stub.RetryJobs(pb.RetryJobsRequest(filter={"kit_ids": [kit_id]}), timeout=60)
        assert many.retried_count == count
    async with vistaflow.aio.connect(module_registry) as client:
        kit = await client.kit(kit_id)
        assert (len(kit.jobs), len(kit.pb.jobs[0].spec.value)) == (count, 60_000)
        assert len((await client.cancel_kit(kit_id, reason=EMOJI * 4096)).jobs) == count


async def test_a_kit_of_many_jobs_is_canceled_for_a_long_reason_and_watched(
    module_registry: str,
) -> None:
    async with stock(module_registry) as stub:
        jobs = [pb.NewJob(name=f"j{n}", job_type=2) for n in range(1000)]
        kit_id = (await stub.CreateKit(pb.CreateKitRequest(name="many", jobs=jobs))).kit.kit_id
        reason = EMOJI * 4096
        canceled = await stub.CancelKit(
            pb.CancelKitRequest(kit_id=kit_id, reason=reason), timeout=120
        )
        assert canceled.canceled_count == 1000
        assert canceled.kit.omitted_job_count > 0
        assert canceled.kit.job_counts.canceled_count == 1000
        rows = 0
        async for message in stub.WatchStates(
            pb.WatchStatesRequest(filter={"kit_ids": [kit_id]}), timeout=60
        ):
            rows += len(message.delta.states)
            if message.HasField("synced"):
                break
        assert rows == 2000
    async with vistaflow.aio.connect(module_registry) as client:
        kit = await client.kit(kit_id)
        assert {job.status for job in kit.jobs} == {"CANCELED"}
        assert (len(kit.jobs), kit.jobs[0].reason) == (1000, reason)
        rows = 0
        async for event in client.watch(kit_ids=[kit_id]):
            if isinstance(event, Synced):
                break
            assert isinstance(event, Delta)
            rows += len(event.states)
        assert rows == 2000


async def test_a_job_with_the_largest_spec_and_results_before_it_is_granted(
    module_registry: str,
) -> None:
    """A worker of any make is told of it; what does not fit it reads by the id."""
    async with stock(module_registry) as stub:
        needs = [f"n{n}" for n in range(40)]
        jobs = [pb.NewJob(name=name, job_type=2) for name in needs]
        kit = (await stub.CreateKit(pb.CreateKitRequest(name="grant", jobs=jobs))).kit
        job = pb.NewJob(
            name="last", job_type=9, depends_on=needs, spec=packed(limits.JOB_SPEC_BYTES)
        )
        made = (await stub.CreateJob(pb.CreateJobRequest(kit_id=kit.kit_id, job=job))).job
        assert len(made.spec.value) == limits.JOB_SPEC_BYTES
        result = struct_pb2.Struct()
        result["result"] = {"text": "x" * 60_000}
        for each in kit.jobs:
            rows = [
                common.State(job_id=each.job_id, status=RUNNING),
                common.State(job_id=each.job_id, status=common.STATUS_FINISHED, metadata=result),
            ]
            await stub.AppendStates(pb.AppendStatesRequest(states=rows))
        call = stub.LeaseJobs()
        hello = pb.WorkerHello(worker="stock", job_types=[9], capacity=1)
        await call.write(pb.LeaseJobsRequest(hello=hello))
        while not (message := await call.read()).HasField("grant"):
            pass
        inputs = message.grant.inputs
        assert [each.name for each in inputs] == needs
        left_out = [each for each in inputs if each.result_omitted]
        assert 0 < len(left_out) < len(inputs)
        for each in inputs:
            assert each.result_omitted != bool(each.result.fields)
        read = await stub.GetJob(pb.GetJobRequest(job_id=left_out[0].job_id))
        assert len(read.job.result["text"]) == 60_000
        await stub.CancelJob(pb.CancelJobRequest(job_id=made.job_id))
        call.cancel()


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (pb.NewJob(job_type=2, spec=packed(limits.JOB_SPEC_BYTES + 1)), "spec"),
        (
            pb.NewJob(
                job_type=2,
                spec=packed(limits.JOB_SPEC_BYTES - 1000),
                depends_on=[f"{n:05}" + "d" * 95 for n in range(5_000)],
            ),
            "",
        ),
    ],
    ids=["spec", "sum"],
)
async def test_a_job_that_no_worker_could_be_told_of_is_refused(
    module_registry: str, job: pb.NewJob, field: str
) -> None:
    async with stock(module_registry) as stub:
        told = await refused(stub.CreateJob(pb.CreateJobRequest(job=job)))
        assert set(told) == {f"job.{field}" if field else "job"}
        kit = pb.CreateKitRequest(name="k", jobs=[pb.NewJob(name="a", job_type=2), job])
        told = await refused(stub.CreateKit(kit))
        assert set(told) == {f"jobs[1].{field}" if field else "jobs[1]"}


async def test_a_sign_of_life_of_the_largest_worker_is_taken(module_registry: str) -> None:
    async with stock(module_registry) as stub:
        call = stub.LeaseJobs()
        hello = pb.WorkerHello(worker="large", job_types=[8], capacity=domain.MAX_CAPACITY)
        await call.write(pb.LeaseJobsRequest(hello=hello))
        assert (await call.read()).HasField("welcome")
        progress = common.Progress(phase=EMOJI * 100, unit=EMOJI * 100, message=EMOJI * 500)
        heartbeat = pb.Heartbeat()
        for _ in range(domain.MAX_CAPACITY):
            heartbeat.attempts.add(job_id=str(uuid.uuid4()), attempt=1, progress=progress)
        await call.write(pb.LeaseJobsRequest(heartbeat=heartbeat))
        told = [await call.read() for _ in range(domain.MAX_CAPACITY)]
        assert {message.directive.action for message in told} == {pb.ACTION_ABANDON}
        call.cancel()


async def test_filters_of_the_largest_kind_are_taken(module_registry: str) -> None:
    labels = {f"{n:03}" + EMOJI * 60: EMOJI * 255 for n in range(names.MAX_LABELS)}
    wanted = pb.StateFilter(
        kit_ids=range(1, 1001),
        job_ids=[str(uuid.uuid4()) for _ in range(1000)],
        labels=labels,
        statuses=[RUNNING] * 1000,
    )
    async with stock(module_registry) as stub:
        await stub.ListStates(pb.ListStatesRequest(filter=wanted))
        watch = stub.WatchStates(pb.WatchStatesRequest(filter=wanted))
        assert (await watch.read()).HasField("synced")
        watch.cancel()
        jobs = pb.JobFilter(kit_ids=range(1, 1001), kit_labels=labels, labels=labels)
        answer = await stub.CancelJobs(pb.CancelJobsRequest(filter=jobs, reason=EMOJI * 4096))
        assert answer.canceled_count == 0
        await stub.ListKits(pb.ListKitsRequest(labels=labels, name_contains=EMOJI * 200))
