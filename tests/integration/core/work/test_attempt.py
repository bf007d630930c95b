"""The process of an attempt, for real: what it says, and that nothing of it is left behind."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2, wrappers_pb2

from vistaflow_services.core.tasks import ended
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.forks.client import Forks
from vistaflow_services.core.work.forks.owner import ForkServer, Links, receive_connection
from vistaflow_services.core.work.process import MAX_LOG_BYTES, AttemptLog, Execution
from vistaflow_services.core.work.process_groups import descendants
from vistaflow_services.core.work.spawner import child_environment

HERE = Path(__file__).parents[1]
MODULE = "misbehaving_jobs"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def header(tmp_path: Path, memory_bytes: int = 0, **what: Any) -> dict[str, Any]:
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.StringValue(value=json.dumps(what)))
    job_id = str(uuid.uuid4())
    return {
        "kit_id": 1,
        "job_id": job_id,
        "attempt": 1,
        "job_type": "DOE",
        "name": "design",
        "spec_type": packed.type_url,
        "spec": base64.b64encode(packed.value).decode(),
        "inputs": {},
        "folder": str(ArtifactStore(tmp_path / "artifacts").open_prefix(job_id, 1)),
        "artifacts": str(tmp_path / "artifacts"),
        "workers": 2,
        "memory_bytes": memory_bytes,
    }


Do = Callable[..., Coroutine[Any, Any, tuple[list[dict[str, Any]], int, str]]]


@asynccontextmanager
async def forking(*modules: str) -> AsyncIterator[tuple[Forks, asyncio.Task[None]]]:
    """A connection to a server that is ready to fork, and what ends with it."""
    server = ForkServer(modules or [MODULE], child_environment())
    serving = asyncio.create_task(server.run())
    made = Forks(MODULE, server.connect())
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(120):
        while not made.ready:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    yield made, running
    await ended([running, serving])


@pytest.fixture(params=["started", "forked"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Forks | None]:
    """What forks the attempts, or None where each is started from nothing."""
    if request.param == "started":
        yield None
        return
    async with forking() as (made, _):
        yield made


@pytest.fixture
async def started(tmp_path: Path, server: Forks | None) -> AsyncIterator[Callable[..., Any]]:
    made: list[Execution] = []

    async def start(memory_bytes: int = 0, **what: Any) -> Execution:
        execution = await Execution.prepare(MODULE, server)
        made.append(execution)
        await execution.start(header(tmp_path, memory_bytes, **what), tmp_path / "1.log")
        return execution

    yield start
    for each in made:
        await each.stop("the test is over")


@pytest.fixture
def do(started: Callable[..., Any], tmp_path: Path) -> Do:
    async def done(memory_bytes: int = 0, **what: Any) -> tuple[list[dict[str, Any]], int, str]:
        execution = await started(memory_bytes, **what)
        said = [each async for each in execution.messages()]
        code = await execution.ended()
        return said, code, (tmp_path / "1.log").read_text()

    return done


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def parents_of(pid: int) -> list[int]:
    """The parent of a process."""
    return [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])]


async def until_gone(pids: list[int], seconds: float) -> list[int]:
    """Those of the processes that are still there after so long."""
    give_up = time.monotonic() + seconds
    while left := [each for each in pids if not gone(each)]:
        if time.monotonic() > give_up:
            break
        await asyncio.sleep(0.02)
    return left


async def pids_of(execution: Execution) -> list[int]:
    async for message in execution.messages():
        if message["kind"] == "task":
            return [execution.pid, *message["metadata"]["pids"]]
    raise AssertionError("it said nothing")


async def test_tasks_progress_and_result_come_in_order(do: Do) -> None:
    said, code, log = await do(do="steps", count=3)
    assert code == 0
    tasks = [(each["name"], each["status"]) for each in said if each["kind"] == "task"]
    assert tasks == [(f"step-{n}", word) for n in range(3) for word in ("RUNNING", "FINISHED")]
    completed = [each["completed"] for each in said if each["kind"] == "progress"]
    # The one between is left out, unless the machine took long for a step.
    assert completed in ([1, 3], [1, 2, 3])
    assert said[0] == {"kind": "ready"}
    assert said[-1] == {"kind": "result", "result": {"count": 3, "attempt": 1, "inputs": []}}
    assert "all steps done\n" in log
    assert "ends with exit code 0" in log


async def test_an_artifact_is_written_below_the_attempts_own_prefix(do: Do, tmp_path: Path) -> None:
    said, _, _ = await do(do="write", text="hello")
    file = said[-1]["result"]["file"]
    store = ArtifactStore(tmp_path / "artifacts")
    assert store.verified(file["uri"], file["sha256"]).read_text() == "hello"
    assert (file["uri"].split("/")[-2:], file["bytes"]) == (["1", "out.txt"], 5)


async def test_a_job_gets_one_numeric_thread_no_grpc_no_stdin_and_no_secrets(
    do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_TEST_TOKEN", "hush")
    said, _, _ = await do(do="environment")
    assert said[-1]["result"] == {
        "threads": "1",
        "grpc": False,
        "stdin": "",
        "session": True,
        "secret": None,
        "workers": 2,
    }


async def test_a_known_failure_is_told_with_reason_and_hint(do: Do) -> None:
    said, code, _ = await do(do="known")
    assert (said[-1], code) == (
        {
            "kind": "failed",
            "reason": "ALL_FAILED",
            "message": "all 40 runs failed",
            "hint": "widen the range",
            "details": {},
        },
        0,
    )


async def test_bad_input_found_by_a_job_is_told_with_its_fields(do: Do) -> None:
    said, _, _ = await do(do="invalid")
    assert said[-1]["details"] == {"violations": [{"field": "a.b", "description": "bad"}]}


async def test_an_unforeseen_exception_is_told_in_the_log_only(do: Do) -> None:
    said, _, log = await do(do="raise")
    assert said[-1] == {"kind": "crashed", "error": "RuntimeError"}
    assert "Traceback" in log
    assert "deadbeef" in log


@pytest.mark.parametrize("fault", ["ValueError", "ZeroDivisionError", "KeyError", "AssertionError"])
async def test_a_fault_that_another_attempt_would_repeat_fails_the_job_at_once(
    do: Do, fault: str
) -> None:
    said, _, log = await do(do="raise", fault=fault)
    assert (said[-1]["kind"], said[-1]["reason"]) == ("failed", "INTERNAL")
    assert f"ended by an unexpected {fault}; see `vistaflow logs " in said[-1]["message"]
    assert "deadbeef" not in json.dumps(said)
    assert "Traceback" in log
    assert "deadbeef" in log


async def test_a_crash_ends_without_a_last_message_and_leaves_its_stack_in_the_log(do: Do) -> None:
    said, code, log = await do(do="crash")
    assert ([each["kind"] for each in said], code) == (["ready"], -signal.SIGSEGV)
    assert log.index("about to crash") < log.index("Segmentation fault") < log.index("SIGSEGV")


async def test_an_exit_code_is_seen(do: Do) -> None:
    _, code, log = await do(do="exit", code=7)
    assert code == 7
    assert "ends with exit code 7" in log


async def test_a_result_too_large_for_a_row_is_a_failure_that_says_so(do: Do) -> None:
    said, _, _ = await do(do="large")
    assert (said[-1]["kind"], said[-1]["reason"]) == ("failed", "RESULT_TOO_LARGE")


async def test_more_memory_than_the_limit_is_a_failure_that_says_so(do: Do) -> None:
    said, _, _ = await do(memory_bytes=300 << 20, do="memory", bytes=1 << 30)
    assert (said[-1]["reason"], said[-1]["message"]) == (
        "MEMORY_LIMIT",
        "needs more memory than its limit of 300 MiB",
    )
    said, _, _ = await do(memory_bytes=300 << 20, do="memory", bytes=1 << 20)
    assert said[-1]["result"] == {"size": 1 << 20}


async def test_a_spec_of_an_unknown_type_is_a_failure_that_says_so(
    tmp_path: Path,
) -> None:
    execution = await Execution.prepare(MODULE)
    told = header(tmp_path, do="steps") | {"spec_type": "type.googleapis.com/no.Such"}
    await execution.start(told, tmp_path / "1.log")
    said = [each async for each in execution.messages()]
    await execution.ended()
    assert (said[-1]["reason"], said[-1]["message"]) == (
        "WRONG_SPEC",
        "the job's spec is no no.Such that this stage knows",
    )


async def test_stopping_ends_the_job_and_everything_it_started(started: Any) -> None:
    execution = await started(do="sleep", children=True)
    pids = await pids_of(execution)
    assert len(pids) == 5
    await execution.stop("canceled")
    assert await until_gone(pids, 120) == []


async def test_a_job_that_heeds_sigterm_is_given_no_grace(started: Any) -> None:
    execution = await started(do="sleep")
    pids = await pids_of(execution)
    await execution.stop("canceled")
    # SIGKILL comes when the grace is over.
    assert await execution._child.wait() == -signal.SIGTERM
    assert await until_gone(pids, 120) == []


async def test_what_a_job_leaves_behind_ends_with_it(started: Any) -> None:
    execution = await started(do="leave")
    pids = await pids_of(execution)
    await execution.ended()
    assert await until_gone(pids, 120) == []


async def test_killing_the_watching_process_takes_the_job_with_it(started: Any) -> None:
    execution = await started(do="sleep")
    pids = await pids_of(execution)
    os.kill(execution.pid, signal.SIGKILL)
    assert await execution.ended() == -signal.SIGKILL
    assert await until_gone(pids, 120) == []


@pytest.mark.parametrize("how", ["started", "forked"])
async def test_killing_the_worker_leaves_no_process_behind(tmp_path: Path, how: str) -> None:
    program = tmp_path / "worker.py"
    told = header(tmp_path, do="sleep", children=True)
    program.write_text(
        "import asyncio, json, pathlib, sys\n"
        "from vistaflow_services.core.work.forks.client import Forks\n"
        "from vistaflow_services.core.work.forks.owner import ForkServer\n"
        "from vistaflow_services.core.work.spawner import child_environment\n"
        "from vistaflow_services.core.work.process import Execution\n"
        "async def main():\n"
        f"    process = ForkServer([{MODULE!r}], child_environment())\n"
        f"    server = Forks({MODULE!r}, process.connect())\n"
        "    running = [asyncio.create_task(each.run()) for each in (process, server)]\n"
        f"    while {how == 'forked'} and not server.ready:\n"
        "        await asyncio.sleep(0.01)\n"
        f"    execution = await Execution.prepare({MODULE!r}, server)\n"
        f"    told = json.loads({json.dumps(json.dumps(told))})\n"
        f"    await execution.start(told, pathlib.Path({str(tmp_path / '1.log')!r}))\n"
        "    async for message in execution.messages():\n"
        "        if message['kind'] == 'task':\n"
        "            pids = [execution.pid, *message['metadata']['pids']]\n"
        "            print(json.dumps(pids), flush=True)\n"
        "asyncio.run(main())\n"
    )
    worker = await asyncio.create_subprocess_exec(
        sys.executable, str(program), stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    pids = json.loads(await worker.stdout.readline())
    below = descendants(worker.pid)
    worker.kill()
    await worker.communicate()
    # The job's two processes, its two children, and the fork server.
    assert (set(pids) <= set(below), len(below)) == (True, 5)
    assert await until_gone(below, 120) == []


@pytest.mark.slow
async def test_a_forked_attempt_takes_a_fraction_of_one_started_from_nothing(
    tmp_path: Path,
) -> None:
    took: dict[bool, list[float]] = {True: [], False: []}
    async with forking() as (server, _):
        for _ in range(5):
            for forked in took:
                begin = time.monotonic()
                execution = await Execution.prepare(MODULE, server if forked else None)
                await execution.start(header(tmp_path, do="steps", count=0), tmp_path / "1.log")
                said = [each async for each in execution.messages()]
                assert (said[-1]["kind"], await execution.ended()) == ("result", 0)
                took[forked].append(time.monotonic() - begin)
    assert min(took[True]) < min(took[False]) / 3


async def test_forked_attempts_do_not_share_random_numbers(do: Do, server: Forks | None) -> None:
    drawn = [(await do(do="random"))[0][-1]["result"]["drawn"] for _ in range(3)]
    assert len({tuple(each) for each in drawn}) == 3


async def test_the_end_of_the_fork_server_ends_its_attempts_and_others_start_without_it(
    tmp_path: Path,
) -> None:
    async with forking() as (made, running):
        execution = await Execution.prepare(MODULE, made)
        await execution.start(header(tmp_path, do="sleep", children=True), tmp_path / "1.log")
        pids = await pids_of(execution)
        (server,) = {each for each in descendants(os.getpid()) if each in parents_of(execution.pid)}
        os.kill(server, signal.SIGKILL)
        assert await asyncio.wait_for(execution.ended(), 120) == -signal.SIGKILL
        await asyncio.wait_for(running, 120)
        assert (await until_gone(pids, 120), made.ready) == ([], False)
        execution = await Execution.prepare(MODULE, made)
        await execution.start(header(tmp_path, do="steps", count=0), tmp_path / "2.log")
        assert [each async for each in execution.messages()][-1]["kind"] == "result"
        await execution.ended()


async def test_imports_that_leave_a_thread_running_are_not_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded_jobs.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "JOBS = {}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ForkServer(["threaded_jobs"], child_environment())
    made = Forks("threaded_jobs", server.connect())
    await asyncio.wait_for(asyncio.gather(server.run(), made.run()), 120)
    assert not made.ready


async def test_stages_share_a_fork_server_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_jobs.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "secret_jobs.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "def look(attempt):\n"
        "    shown = {each: os.environ.get(each) for each in ('MY_SECRET', 'OF_SERVICE')}\n"
        "    return {**shown, 'server': Path(f'/proc/{os.getppid()}/environ').read_text()}\n"
        "JOBS = {'DOE': look}\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    server = ForkServer(["broken_jobs", MODULE, "secret_jobs"], child_environment())
    monkeypatch.setenv("MY_SECRET", "kept")
    monkeypatch.setenv("OF_SERVICE", "later")
    broken = Forks("broken_jobs", server.connect())
    open_, told = (Forks("secret_jobs", server.connect(), which) for which in ((), ("_SECRET",)))
    other = Forks(MODULE, server.connect())
    everything = (server, broken, open_, told, other)
    running = [asyncio.create_task(each.run()) for each in everything]
    async with asyncio.timeout(120):
        while not (open_.ready and told.ready and other.ready):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not broken.ready

    shown = []
    for forks in (open_, told):
        execution = await Execution.prepare("secret_jobs", forks)
        await execution.start(header(tmp_path), tmp_path / "1.log")
        shown.append([each async for each in execution.messages()][-1]["result"])
        await execution.ended()
    execution = await Execution.prepare(MODULE, other)
    await execution.start(header(tmp_path, do="steps", count=0), tmp_path / "2.log")
    assert [each async for each in execution.messages()][-1]["kind"] == "result"
    await execution.ended()
    await ended(running)

    assert [(each["MY_SECRET"], each["OF_SERVICE"]) for each in shown] == [
        (None, "later"),
        ("kept", "later"),
    ]
    assert not any("kept" in each["server"] for each in shown)


async def test_a_service_gets_a_connection_over_its_link_whenever_a_server_starts(
    tmp_path: Path,
) -> None:
    links = Links()
    with links.link() as theirs:
        theirs.setblocking(False)
        for _ in range(2):
            server = ForkServer([MODULE], child_environment())
            serving = asyncio.create_task(links.run(server))
            connection = await asyncio.wait_for(receive_connection(theirs), 120)
            assert connection is not None
            made = Forks(MODULE, connection)
            running = asyncio.create_task(made.run())
            async with asyncio.timeout(120):
                while not made.ready:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            with links.link() as late:
                late.setblocking(False)
                second = await asyncio.wait_for(receive_connection(late), 120)
                assert second is not None
                second.close()
            await ended([serving])
            await asyncio.wait_for(running, 120)
        connected = theirs.dup()
    connected.setblocking(False)
    assert await asyncio.wait_for(receive_connection(connected), 120) is None
    connected.close()


async def test_a_service_that_does_not_read_holds_up_no_other(tmp_path: Path) -> None:
    server = ForkServer([MODULE], child_environment())
    serving = asyncio.create_task(server.run())
    frozen, made = Forks(MODULE, server.connect()), Forks(MODULE, server.connect())
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(120):
        while not made.ready:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    forked = [asyncio.create_task(frozen.fork()) for _ in range(8)]
    for _ in range(2):
        execution = await Execution.prepare(MODULE, made)
        await execution.start(header(tmp_path, do="steps", count=0), tmp_path / "1.log")
        assert [each async for each in execution.messages()][-1]["kind"] == "result"
        assert await asyncio.wait_for(execution.ended(), 120) == 0
    listening = asyncio.create_task(frozen.run())
    for child in await asyncio.wait_for(asyncio.gather(*forked), 120):
        child.terminate()
        await asyncio.wait_for(child.wait(), 120)
        child.close()
    await ended([listening, running, serving])


async def test_a_process_that_gets_no_job_ends_when_stopped() -> None:
    idle = await Execution.prepare(MODULE)
    await idle.stop("not needed")
    assert await until_gone([idle.pid], 120) == []


async def test_output_beyond_the_bound_keeps_its_beginning_and_its_end(
    do: Do, tmp_path: Path
) -> None:
    lines = 3 * MAX_LOG_BYTES // 93
    said, _, log = await do(do="print", lines=lines)
    assert said[-1]["kind"] == "result"
    assert len(log) < MAX_LOG_BYTES + 200_000
    assert "line 0000000 " in log
    assert "bytes are left out here" in log
    assert f"line {lines - 1:07} " in log
    assert "ends with exit code 0" in log


def test_a_log_says_how_much_it_left_out(tmp_path: Path) -> None:
    log = AttemptLog(limit=10, tail=4)
    log.write(b"early ")
    log.open(tmp_path / "x.log")
    for each in (b"0123456789", b"abcdefgh", b"ij"):
        log.write(each)
    log.close()
    text = (tmp_path / "x.log").read_bytes().decode()
    head, _, tail = text.partition("\n[vistaflow] ")
    count, _, tail = tail.partition(" bytes are left out here\n")
    # The bytes kept before it was opened are bounded by the tail as well.
    assert head == "earl012345"
    assert int(count) + len(tail) == len("6789abcdefghij")
    assert tail.endswith("ghij")
