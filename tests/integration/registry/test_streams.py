"""StreamStates through gRPC on a real Postgres."""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from pathlib import Path

import grpc
import psycopg
import pytest
from google.protobuf import any_pb2, struct_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry import streams
from vistaflow_services.registry.domain import MAX_STATES_AN_APPEND

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig, Start
from stream_writer import StreamWriter, task_row
from traffic import Watcher, external_job, until
from watch_checker import judge


async def rows_of(rig: Rig, after: int = 0) -> list[common.State]:
    request = pb.ListStatesRequest(after_revision=after, page_size=5000)
    found: list[common.State] = []
    while True:
        page = await rig.stub.ListStates(request)
        found += page.states
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def test_acks_come_in_order_and_each_message_is_one_append(rig: Rig) -> None:
    chance = random.Random(3)
    jobs = [await external_job(rig.stub) for _ in range(3)]
    watcher = Watcher(rig.stub, after=6)
    watching = asyncio.create_task(watcher.watch_until(lambda: False))
    writers = [StreamWriter(rig.stub).open() for _ in jobs]

    async def write(writer: StreamWriter, job_id: str) -> None:
        seq = 0
        for _ in range(60):
            rows = []
            for _ in range(chance.choice((1, 2, 30, 100))):
                seq += 1
                rows.append(task_row(job_id, f"t{seq % 40}", seq))
            await writer.send(rows)
        await writer.done()

    await asyncio.gather(*(write(w, job_id) for w, (_, job_id) in zip(writers, jobs, strict=True)))
    appends = [append for writer in writers for append in writer.appends()]
    for writer in writers:
        assert writer.error is None
        assert [ack.number for ack in writer.acks] == list(range(1, 61))
        verdicts = {each.verdict for ack in writer.acks for each in ack.results}
        assert verdicts == {pb.VERDICT_ACCEPTED}
        assert [ack.revision for ack in writer.acks] == [
            ack.results[-1].revision for ack in writer.acks
        ]
        assert writer.most_unacked <= streams.MAX_WINDOW
    head = max(row.revision for append in appends for row in append)
    await until(lambda: watcher.at >= head)
    watching.cancel()
    assert judge(watcher.messages, appends, after=6).told() == {}
    assert head == 6 + sum(map(len, appends))


async def test_a_writer_that_sends_more_than_it_was_granted_is_ended_with_what_was_due_acked(
    rig: Rig,
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    await writer.send([task_row(job_id, f"t{n}") for n in range(600)])
    await writer.send([task_row(job_id, f"t{n}") for n in range(1000)], wait=False)
    await writer.over()
    assert writer.error is not None
    assert writer.error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "400 were granted" in (writer.error.details() or "")
    assert [(ack.number, len(ack.results)) for ack in writer.acks] == [(1, 600)]
    assert len(await rows_of(rig, 2)) == 600


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda m: setattr(m, "number", 3), "number"),
        (lambda m: m.states.pop(), "states"),
        (lambda m: setattr(m.states[0], "job_id", "x"), "states[0].job_id"),
        (lambda m: m.states.extend([common.State()] * 1000), "states"),
    ],
    ids=["number", "no rows", "job_id", "too many rows"],
)
async def test_a_malformed_message_ends_the_stream_after_what_came_before_was_acked(
    rig: Rig, spoil: object, field: str
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    await writer.send([task_row(job_id, "good")])
    bad = pb.StreamStatesRequest(number=2, states=[task_row(job_id, "bad")])
    spoil(bad)  # type: ignore[operator]
    await writer.call.write(bad)
    await writer.over()
    assert writer.error is not None
    assert writer.error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (writer.error.details() or "")
    assert [ack.number for ack in writer.acks] == [1]
    assert [row.task_name for row in await rows_of(rig, 2)] == ["good"]


async def test_every_row_has_its_verdict(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    rows = [
        task_row(job_id, "a", 1),
        task_row(job_id, "a", 1),
        task_row(str(uuid.uuid4()), "a"),
        common.State(job_id=job_id, status=common.STATUS_QUEUED, attempt=7),
        task_row(job_id, "b", 2, status=common.STATUS_FINISHED),
        task_row(job_id, "b", 3),
    ]
    ack = await writer.acked(await writer.send(rows))
    await writer.done()
    assert [each.verdict for each in ack.results] == [
        pb.VERDICT_ACCEPTED,
        pb.VERDICT_DUPLICATE,
        pb.VERDICT_REJECTED,
        pb.VERDICT_STALE_ATTEMPT,
        pb.VERDICT_ACCEPTED,
        pb.VERDICT_REJECTED,
    ]
    assert ack.results[0].revision == ack.results[1].revision == 3
    assert ack.revision == ack.results[4].revision == 4
    assert "FINISHED to RUNNING" in ack.results[5].detail


def with_metadata(row: common.State, **metadata: object) -> common.State:
    row.metadata.update(metadata)
    return row


async def test_a_repeat_is_a_duplicate_only_if_it_says_what_is_recorded_on_whatever_way_it_comes(
    rig: Rig,
) -> None:
    _, job_id = await external_job(rig.stub)
    first = [
        with_metadata(task_row(job_id, "a", 7), x=0.1, n=3, more={"b": [1, True], "a": None}),
        task_row(job_id, "b", 2**62, reason="why"),
    ]
    others = [
        with_metadata(task_row(job_id, "a", 7), x=0.1, n=3, more={"b": [1, 1], "a": None}),
        task_row(job_id, "a", 7),
        task_row(job_id, "c", 7),
        task_row(job_id, "b", 2**62, reason="why not"),
        task_row(job_id, "b", 2**62, reason="why", status=common.STATUS_FINISHED),
    ]
    again = [
        with_metadata(task_row(job_id, "a", 7), more={"a": None, "b": [1, True]}, n=3.0, x=0.1),
        task_row(job_id, "b", 2**62, reason="why", actor="somebody else"),
    ]
    streamed = StreamWriter(rig.stub).open()
    ack = await streamed.acked(await streamed.send(first))
    assert [each.verdict for each in ack.results] == [pb.VERDICT_ACCEPTED] * 2
    for answer in (
        await streamed.acked(await streamed.send(others + again)),
        await rig.stub.AppendStates(pb.AppendStatesRequest(states=others + again)),
    ):
        refused, repeated = answer.results[:5], answer.results[5:]
        assert {each.verdict for each in refused} == {pb.VERDICT_REJECTED}
        assert {(each.revision, each.reason) for each in refused} == {(0, "SEQ_REUSED")}
        assert [(each.verdict, each.revision) for each in repeated] == [
            (pb.VERDICT_DUPLICATE, result.revision) for result in ack.results
        ]
    await streamed.done()
    assert len(await rows_of(rig, 2)) == 2


async def test_a_leased_attempt_writes_until_another_takes_its_place(rig: Rig) -> None:
    spec = any_pb2.Any()
    spec.Pack(struct_pb2.Struct())
    job = pb.NewJob(name="work", job_type=common.JOB_TYPE_DOE, spec=spec)
    kit = (await rig.stub.CreateKit(pb.CreateKitRequest(name="k", jobs=[job]))).kit
    job_id = kit.jobs[0].job_id
    said: asyncio.Queue[pb.LeaseJobsRequest] = asyncio.Queue()

    async def says():  # type: ignore[no-untyped-def]
        while True:
            yield await said.get()

    hello = pb.WorkerHello(worker="w", job_types=[common.JOB_TYPE_DOE], capacity=1)
    said.put_nowait(pb.LeaseJobsRequest(hello=hello))
    lease = rig.stub.LeaseJobs(says())
    attempts = []
    writer = StreamWriter(rig.stub).open()
    async with asyncio.timeout(120):
        async for message in lease:
            if not message.HasField("grant"):
                continue
            attempts.append(message.grant.job.attempt)
            row = task_row(job_id, f"in-{len(attempts)}", 1)
            ack = await writer.acked(await writer.send([row]))
            if len(attempts) == 2:
                break
            assert ack.results[0].verdict == pb.VERDICT_ACCEPTED
            release = pb.Release(job_id=job_id, attempt=1, reason="enough")
            said.put_nowait(pb.LeaseJobsRequest(release=release))
    lease.cancel()
    assert attempts == [1, 2]
    assert ack.results[0].verdict == pb.VERDICT_STALE_ATTEMPT
    await writer.done()


async def test_a_broken_stream_loses_nothing_acked_and_the_rest_is_sent_again(rig: Rig) -> None:
    chance = random.Random(5)
    _, job_id = await external_job(rig.stub)
    messages: list[list[common.State]] = []
    seq = 0
    done = 0
    duplicates = streams_used = 0
    # Whether a stream breaks between a commit and its acknowledgement is chance.
    while done < len(messages) or (not duplicates and streams_used < 100):
        if done == len(messages):
            for _ in range(120):
                size = chance.choice((1, 10, 40))
                rows = [task_row(job_id, f"t{n % 7}", seq + n) for n in range(1, size + 1)]
                messages.append(rows)
                seq += size
        streams_used += 1
        writer = StreamWriter(rig.stub).open()
        stop = chance.randrange(5, 40)
        for rows in messages[done : done + stop]:
            await writer.send(rows)
        if done + stop >= len(messages):
            await writer.done()
        else:
            await asyncio.sleep(chance.uniform(0, 0.01))
            writer.call.cancel()  # wherever it was
            await writer.over()
        for ack in writer.acks:
            for result in ack.results:
                assert result.verdict in (pb.VERDICT_ACCEPTED, pb.VERDICT_DUPLICATE)
                duplicates += result.verdict == pb.VERDICT_DUPLICATE
        done += len(writer.acks)
    stored = [(row.task_name, row.seq) for row in await rows_of(rig, 2)]
    assert stored == [(row.task_name, row.seq) for rows in messages for row in rows]
    assert streams_used >= 4
    assert duplicates > 0, "no stream broke between a commit and its acknowledgement"


async def test_nothing_that_follows_a_message_which_was_refused_is_recorded(
    rig: Rig,
) -> None:
    """The head row is held until the database gives the first commit up, then let go."""
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    async with await psycopg.AsyncConnection.connect(rig.dsn) as connection:
        await connection.execute("SELECT FROM vistadb_test.head FOR UPDATE")
        await writer.send([task_row(job_id, "first")])
        await asyncio.sleep(0.2)
        for n in range(20):
            await writer.send([task_row(job_id, f"later-{n}")])
        await writer.over()
        await connection.rollback()
    assert writer.error is not None
    assert writer.error.code() == grpc.StatusCode.UNAVAILABLE
    assert writer.acks == []
    other = StreamWriter(rig.stub).open()
    await other.acked(await other.send([task_row(job_id, "after")]))
    await other.done()
    assert [row.task_name for row in await rows_of(rig, 2)] == ["after"]


async def test_while_the_database_stands_still_what_waits_is_bounded(rig: Rig) -> None:
    jobs = [await external_job(rig.stub) for _ in range(4)]
    writers = [StreamWriter(rig.stub).open() for _ in jobs]
    async with await psycopg.AsyncConnection.connect(rig.dsn) as connection:
        await connection.execute("SELECT FROM vistadb_test.head FOR UPDATE")

        async def write(writer: StreamWriter, job_id: str) -> None:
            for n in range(1000):
                await writer.send([task_row(job_id, f"t{n}-{m}") for m in range(50)])

        writing = [
            asyncio.create_task(write(w, job_id))
            for w, (_, job_id) in zip(writers, jobs, strict=True)
        ]
        await until(lambda: all(w.unacked >= streams.FIRST_WINDOW for w in writers))
        await asyncio.sleep(0.5)
        # Who was slow to begin was granted enough for the largest message there is.
        bounds = (streams.FIRST_WINDOW, MAX_STATES_AN_APPEND)
        assert all(bounds[0] <= w.unacked <= bounds[1] for w in writers)
        await connection.rollback()
    await until(lambda: all(len(writer.acks) >= 20 for writer in writers))
    for each in writing:
        each.cancel()
    for writer in writers:
        writer.call.cancel()


async def test_a_draining_registry_acknowledges_what_it_took_and_ends_the_stream(
    rig: Rig,
) -> None:
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    for n in range(50):
        await writer.send([task_row(job_id, f"t{n}")])
    await writer.acked(1)
    rig.drain()
    await writer.over()
    assert writer.error is None
    assert len(await rows_of(rig, 2)) == len(writer.acks)


async def test_a_large_message_gets_its_credit_after_many_small_ones(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    writer = StreamWriter(rig.stub).open()
    for n in range(40):
        await writer.send([task_row(job_id, f"t{n}")])
    async with asyncio.timeout(120):
        number = await writer.send([task_row(job_id, f"u{n}") for n in range(1000)])
        await writer.acked(number)
        await writer.done()


async def test_streams_go_on_at_both_replicas_of_one_log(rig: Rig, start: Start) -> None:
    other = await start()
    jobs = [await external_job(rig.stub) for _ in range(2)]
    writers = [StreamWriter(each.stub).open() for each in (rig, other)]

    async def write(writer: StreamWriter, job_id: str) -> None:
        for n in range(40):
            await writer.send([task_row(job_id, f"t{n % 5}", 10 * n + m) for m in range(1, 11)])
        await writer.done()

    await asyncio.gather(*(write(w, job_id) for w, (_, job_id) in zip(writers, jobs, strict=True)))
    assert [len(writer.acks) for writer in writers] == [40, 40]
    appends = [append for writer in writers for append in writer.appends()]
    watcher = Watcher(rig.stub, after=4)
    await watcher.catch_up(804)
    assert judge(watcher.messages, appends, after=4).told() == {}
