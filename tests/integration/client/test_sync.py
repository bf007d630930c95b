"""The blocking client on a registry in another process: the same, from threads and notebooks."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import vistaflow
from tests.integration.client.conftest import RegistryProcess  # type: ignore[import-not-found]


def test_the_blocking_client_does_the_same(process: RegistryProcess) -> None:
    with vistaflow.connect(process.address) as client:
        kit = client.create_kit("x", ["DOE", "ML_TRAIN"], labels={"a": "b"})
        job = client.create_job("OPTIMIZE", kit_id=kit.kit_id, name="late")
        client.append(job.job_id, "RUNNING")
        client.append(job.job_id, "FINISHED", metadata={"result": {"best": 1}})

        assert client.job(job.job_id).result == {"best": 1}
        assert [each.kit_id for each in client.kits(labels={"a": "b"})] == [kit.kit_id]
        assert [each.status for each in client.states(job_ids=[job.job_id])] == [
            "QUEUED",
            "RUNNING",
            "FINISHED",
        ]
        assert client.cancel_job(kit.jobs[0].job_id).status == "CANCELED"
        assert client.retry_job(kit.jobs[0].job_id).status == "QUEUED"
        assert client.cancel_kit(kit.kit_id).status == "CANCELED"
        assert client.retry_kit(kit.kit_id).job("doe").status == "QUEUED"
        with pytest.raises(vistaflow.DeadlineExceededError):
            client.wait(kit.kit_id, timeout=0.2)
        with pytest.raises(vistaflow.NotFoundError):
            client.kit(77)
        assert client.server_info().revision == client.kit(kit.kit_id).revision
        assert "RUNNING" in client.kit(kit.kit_id)._repr_html_()


async def test_the_blocking_client_works_inside_a_running_loop(process: RegistryProcess) -> None:
    await asyncio.sleep(0)
    with vistaflow.connect(process.address) as client:
        kit = client.create_kit("from a notebook", ["DOE"])
        assert client.kit(kit.kit_id).name == "from a notebook"
        assert next(client.watch(kit_ids=[kit.kit_id])).revision == kit.revision


def test_a_loop_over_a_watch_is_left_by_break(process: RegistryProcess) -> None:
    with vistaflow.connect(process.address) as client:
        kit = client.create_kit("x", ["DOE"])
        for event in client.watch():
            assert isinstance(event, vistaflow.Delta)
            break
        client.append(kit.jobs[0].job_id, "RUNNING")
        found = []
        for event in client.watch(after_revision=kit.revision):
            if isinstance(event, vistaflow.Delta):
                found += [each.status for each in event.states]
                break
        assert found == ["RUNNING"]


def test_threads_share_one_client(process: RegistryProcess) -> None:
    with vistaflow.connect(process.address) as client, ThreadPoolExecutor(8) as pool:
        kits = list(pool.map(lambda at: client.create_kit(f"kit {at}").kit_id, range(40)))
        assert sorted(kits) == list(range(1, 41))


def test_a_closed_client_leaves_no_thread(process: RegistryProcess) -> None:
    before = set(threading.enumerate())
    client = vistaflow.connect(process.address)
    client.server_info()
    own = {each for each in set(threading.enumerate()) - before if "vistaflow" in each.name}
    assert own
    client.close()
    client.close()
    # Of the client: this process has other threads, which come and go.
    assert not own & set(threading.enumerate())


def test_a_watch_survives_the_kill_of_the_registry(process: RegistryProcess) -> None:
    with vistaflow.connect(process.address, timeout=120) as client:
        kit = client.create_kit("x", ["DOE"])
        job = kit.jobs[0].job_id
        client.append(job, "RUNNING")
        seen: list[int] = []

        def watch() -> None:
            for event in client.watch(kit_ids=[kit.kit_id]):
                if isinstance(event, vistaflow.Delta):
                    seen.extend(each.revision for each in event.states)
                    if any(
                        each.status == "FINISHED" for each in event.states if not each.task_name
                    ):
                        return

        watcher = threading.Thread(target=watch)
        watcher.start()
        for at in range(30):
            client.append(job, "FINISHED", task_name=f"part-{at}")
            if at in (9, 19):
                process.kill()
                again = threading.Thread(target=process.start)
                again.start()
        client.append(job, "FINISHED")
        watcher.join(120)
        again.join()

        assert not watcher.is_alive()
        assert seen == [each.revision for each in client.states(kit_ids=[kit.kit_id])]
        assert len(seen) == 33


def test_an_append_in_flight_while_the_registry_dies_is_recorded_once(
    process: RegistryProcess,
) -> None:
    with vistaflow.connect(process.address, timeout=120) as client:
        job = client.create_kit("x", ["DOE"]).jobs[0].job_id
        client.append(job, "RUNNING")
        for at in range(4):
            sending = threading.Thread(
                target=client.append, args=(job, "FINISHED"), kwargs={"task_name": f"part-{at}"}
            )
            sending.start()
            time.sleep(0.002 * at)
            process.kill()
            process.start()
            sending.join(120)
            assert not sending.is_alive()
        parts = [each.task_name for each in client.states(job_ids=[job]) if each.task_name]
        assert parts == ["part-0", "part-1", "part-2", "part-3"]
