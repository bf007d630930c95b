"""`client.stream()` on a registry in another process, which is killed meanwhile."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

import vistaflow
from tests.integration.client.conftest import RegistryProcess  # type: ignore[import-not-found]
from vistaflow.aio import AsyncClient, connect
from vistaflow.api.common.v1 import common_pb2 as common


async def running_job(client: AsyncClient) -> str:
    """An external job that is RUNNING."""
    job = await client.create_job("DOE")
    await client.append(job.job_id, "RUNNING")
    return job.job_id


def rows(job_id: str, first: int, count: int, **fields: int) -> list[common.State]:
    return [
        common.State(job_id=job_id, task_name=f"row-{n}", status=common.STATUS_RUNNING, **fields)
        for n in range(first, first + count)
    ]


async def names(client: AsyncClient, job_id: str) -> list[str]:
    return [row.task_name async for row in client.states(job_ids=[job_id]) if row.task_name]


async def test_what_is_sent_is_recorded_in_order_and_told(process: RegistryProcess) -> None:
    chance = random.Random(1)
    async with connect(process.address) as client:
        job_id = await running_job(client)
        answers, count = [], 0
        async with client.stream() as stream:
            for _ in range(40):
                size = chance.choice((1, 50, 400))
                answers.append(await stream.send(rows(job_id, count, size)))
                count += size
            assert await stream.flush() == stream.revision
        told = [result for answer in answers for result in answer.result().results]
        assert [each.verdict for each in told] == ["ACCEPTED"] * count
        assert [each.revision for each in told] == list(range(3, count + 3))
        assert answers[-1].result().revision == stream.revision == count + 2
        assert await names(client, job_id) == [f"row-{n}" for n in range(count)]


@pytest.mark.parametrize("seq", [False, True], ids=["seq of the stream", "seq of the caller"])
async def test_rows_survive_a_registry_that_is_killed_and_none_comes_twice(
    process: RegistryProcess, seq: bool
) -> None:
    async with connect(process.address) as client:
        job_id = await running_job(client)
        stop, count, answers = time.monotonic() + 3, 0, []

        async with client.stream() as stream:

            def disturb() -> None:
                for count in range(2):
                    time.sleep(0.8)
                    end = time.monotonic() + 120
                    while stream.reconnect_count < count and time.monotonic() < end:
                        time.sleep(0.01)  # what did not come back cannot be cut off
                    process.kill()
                    process.start()

            disturbing = threading.Thread(target=disturb)
            disturbing.start()
            while time.monotonic() < stop or disturbing.is_alive():
                chunk = rows(job_id, count, 20)
                for n, row in enumerate(chunk):
                    row.seq = count + n + 1 if seq else 0
                answers.append(await stream.send(chunk))
                count += 20
                await asyncio.sleep(0.002)
        assert stream.reconnect_count >= 2
        verdicts = {each.verdict for answer in answers for each in answer.result().results}
        assert verdicts <= {"ACCEPTED", "DUPLICATE"}
        assert await names(client, job_id) == [f"row-{n}" for n in range(count)]


async def test_streams_begun_together_on_one_job_lose_no_row(
    process: RegistryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that stands and a seeded generator: machines that were restored have such.
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    async with connect(process.address) as client:
        job_id = await running_job(client)
        sent: list[str] = []

        async def write(number: int) -> None:
            random.seed(1)
            async with client.stream() as stream:
                for batch in range(10):
                    chunk = rows(job_id, 0, 200)
                    for row in chunk:
                        row.task_name = f"{number}-{batch}-{row.task_name}"
                    sent.extend(row.task_name for row in chunk)
                    await stream.send(chunk)

        await asyncio.gather(*(write(number) for number in range(4)))
        await write(4)
        assert sorted(await names(client, job_id)) == sorted(sent)


async def test_rows_that_are_refused_are_raised_by_flush_and_by_close_each_once(
    process: RegistryProcess,
) -> None:
    async with connect(process.address) as client:
        job_id = await running_job(client)
        stream = client.stream()
        done = rows(job_id, 0, 1)
        done[0].status = common.STATUS_FINISHED
        await stream.send([*done, *rows(job_id, 0, 1), *rows(job_id, 1, 1, seq=7)])
        await stream.send(rows(job_id, 2, 2, seq=7))
        with pytest.raises(vistaflow.RowsRefusedError) as refused:
            await stream.flush()
        assert refused.value.count == 3
        found = [(each.place, each.task_name, each.seq) for each in refused.value.rows[1:]]
        assert found == [(4, "row-2", 7), (5, "row-3", 7)]
        assert {each.verdict for each in refused.value.rows} == {"REJECTED"}
        assert [each.reason for each in refused.value.rows] == ["", "SEQ_REUSED", "SEQ_REUSED"]
        assert "row 2, task 'row-0'" in str(refused.value)
        await stream.send(rows(job_id, 5, 1))
        assert await stream.flush() == stream.revision == 5
        await stream.send([*rows(job_id, 6, 1), *rows(job_id, 0, 1)])
        with pytest.raises(vistaflow.RowsRefusedError, match="row 8, task 'row-0'"):
            await stream.close()
        assert await names(client, job_id) == ["row-0", "row-1", "row-5", "row-6"]


async def test_leaving_the_block_raises_what_was_refused_however_many_they_are(
    process: RegistryProcess,
) -> None:
    async with connect(process.address) as client:
        job_id = (await client.create_job("DOE")).job_id  # not RUNNING: no task may move

        async def write() -> None:
            async with client.stream() as stream:
                await stream.send(rows(job_id, 0, 1000))
                await stream.send(rows(job_id, 0, 500))

        with pytest.raises(vistaflow.RowsRefusedError, match="and 1,497 more") as refused:
            await write()
        assert (refused.value.count, len(refused.value.rows)) == (1500, 1000)


async def test_a_client_that_is_closed_under_its_stream_ends_it(process: RegistryProcess) -> None:
    client = connect(process.address)
    job_id = await running_job(client)
    stream = client.stream()
    await stream.send(rows(job_id, 0, 3))
    await stream.flush()
    await client.close()
    await stream.send(rows(job_id, 3, 3))
    with pytest.raises(vistaflow.VistaError):
        async with asyncio.timeout(120):
            await stream.close()


async def test_a_malformed_row_ends_the_stream_with_its_field(process: RegistryProcess) -> None:
    async with connect(process.address) as client:
        job_id = await running_job(client)
        stream = client.stream()
        good = await stream.send(rows(job_id, 0, 3))
        bad = await stream.send(rows("x", 3, 1))
        with pytest.raises(vistaflow.InvalidArgumentError) as refused:
            await stream.close()
        assert [each.field for each in refused.value.violations] == ["states[0].job_id"]
        assert len(good.result().results) == 3
        assert isinstance(bad.exception(), vistaflow.InvalidArgumentError)
        assert await names(client, job_id) == ["row-0", "row-1", "row-2"]
        with pytest.raises(vistaflow.InvalidArgumentError):
            await stream.send(rows(job_id, 4, 1))


async def test_a_block_that_raises_ends_the_stream_without_waiting(
    process: RegistryProcess,
) -> None:
    async with connect(process.address) as client:
        job_id = await running_job(client)
        process.stop()
        answers = []

        async def fail() -> None:
            async with asyncio.timeout(120), client.stream() as stream:
                answers.append(await stream.send(rows(job_id, 0, 3)))
                raise KeyError("the caller's own")

        with pytest.raises(KeyError):
            await fail()
        (answer,) = answers
        assert isinstance(answer.exception(), vistaflow.CanceledError)
        process.start()


async def test_nobody_there_is_told_when_the_patience_is_over(process: RegistryProcess) -> None:
    process.stop()
    async with connect(process.address) as client:
        with pytest.raises(vistaflow.UnavailableError):
            async with client.stream(patience=1.0) as stream:
                await stream.send(rows("x", 0, 1))
    process.start()


def test_the_blocking_client_streams_too(process: RegistryProcess) -> None:
    with vistaflow.connect(process.address) as client:
        job = client.create_job("DOE")
        client.append(job.job_id, "RUNNING")
        with client.stream() as stream:
            sent = [stream.send(rows(job.job_id, 100 * n, 100)) for n in range(20)]
            assert stream.flush() == 2002
            assert sent[7].result().revision == 802
            wrong = rows(job.job_id, 0, 1)
            wrong[0].attempt = 9
            (result,) = stream.send(wrong).result().results
            assert (result.verdict, result.revision) == ("STALE_ATTEMPT", 0)
            with pytest.raises(vistaflow.RowsRefusedError, match="1 row is not recorded: row 2001"):
                stream.flush()
        with pytest.raises(vistaflow.RowsRefusedError), client.stream() as stream:
            stream.send(wrong)

        def send_nothing() -> None:
            with client.stream() as stream:
                stream.send(wrong).result()
                stream.send([])

        with pytest.raises(ValueError, match="0 rows") as empty:
            send_nothing()
        assert "1 row is not recorded" in empty.value.__notes__[0]
        with pytest.raises(vistaflow.InvalidArgumentError), client.stream() as stream:
            stream.send(rows("x", 0, 1))


async def test_a_watch_of_the_latest_tells_what_was_folded_and_what_left(
    process: RegistryProcess,
) -> None:
    async with connect(process.address) as client:
        job_id = await running_job(client)
        async with client.stream() as stream:
            for n in range(10):
                await stream.send(rows(job_id, 0, 5) if n < 9 else rows(job_id, 0, 1))
            for row in (done := rows(job_id, 1, 1)):
                row.status = common.STATUS_FINISHED
            await stream.send(done)
        watch = client.watch(mode="latest", include_left=True, statuses=["RUNNING"])
        count = folded = 0
        left = []
        async for event in watch:
            if isinstance(event, vistaflow.Delta):
                count += len(event.states) + len(event.left)
                folded += event.folded_count
                left += [(each.task_name, each.status) for each in event.left]
            if event.revision >= stream.revision:
                break
        # The job's QUEUED row is none of those.
        assert count + folded == stream.revision - 1
        assert left == [("row-1", "FINISHED")]
        with pytest.raises(ValueError, match="'newest' is none of every, latest"):
            client.watch(mode="newest")
