"""One service: started, proven, started again, given up with its own words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from vistaflow._machine.local import started_at
from vistaflow_services.suite import supervisor
from vistaflow_services.suite.__main__ import check_port
from vistaflow_services.suite.ports import EPHEMERAL, free_port
from vistaflow_services.suite.supervisor import GaveUpError, Supervised, last_error

SERVING = """
    import asyncio, os, grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    async def main():
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        try:
            server.add_insecure_port(os.environ["LISTEN"])
        except RuntimeError:
            os._exit(2)
        await server.start()
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


class Script:
    """A service that is a script of the test."""

    def __init__(self, folder: Path, name: str, text: str) -> None:
        package = folder / "vistaflow_services_of_test"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / f"{name}.py").write_text(textwrap.dedent(text))
        self.supervised = Supervised(name, port=0, logs=folder, module=f"{package.name}.{name}")
        self.supervised.listen = ("LISTEN", "127.0.0.1")
        path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
        self.supervised.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "FOLDER": str(folder),
        }


@contextlib.asynccontextmanager
async def running(service: Supervised) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(service.run())
    try:
        yield task
    finally:
        task.cancel()
        await service.stop()
        await asyncio.wait([task])


async def until(holds: Callable[[], object], seconds: float = 120) -> bool:
    for _ in range(int(seconds / 0.05)):
        if holds():
            return True
        await asyncio.sleep(0.05)
    return False


async def gone(pid: int) -> bool:
    return await until(lambda: started_at(pid) is None)


async def test_a_service_that_dies_is_started_again_and_proven_again(tmp_path: Path) -> None:
    service = Script(tmp_path, "steady", SERVING).supervised
    async with running(service), asyncio.timeout(120):
        await service.serving.wait()
        first = service.pid
        os.kill(first, signal.SIGKILL)
        assert await until(lambda: service.pid != first)
        assert not service.serving.is_set()
        await service.serving.wait()
        second = service.pid

    assert second != first
    assert await gone(second)


async def test_a_service_whose_port_was_taken_meanwhile_gets_another_one(tmp_path: Path) -> None:
    service = Script(tmp_path, "crossed", SERVING).supervised
    taken = service.port
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        other.listen()
        async with running(service) as task:
            serving = asyncio.create_task(service.serving.wait())
            await asyncio.wait({task, serving}, return_when=asyncio.FIRST_COMPLETED)
            assert serving.done()
            assert service.port != taken


async def test_a_service_that_cannot_start_is_given_up_with_its_own_words(tmp_path: Path) -> None:
    service = Script(
        tmp_path,
        "refusing",
        """
        import json
        print(json.dumps({"level": "INFO", "message": "begins"}))
        print(json.dumps({"level": "ERROR", "message": "refusing cannot start: no disk"}))
        print("and says something else")
        raise SystemExit(2)
        """,
    ).supervised

    async with running(service) as task:
        with pytest.raises(GaveUpError) as caught:
            await asyncio.wait_for(task, 120)

    told = "refusing cannot start: no disk (see `vistaflow logs refusing`)"
    assert str(caught.value) == told
    assert (tmp_path / "refusing.out").read_text().count("begins") == supervisor.MOST_REFUSALS


async def test_a_service_that_dies_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "STARTS_SECONDS", 3600.0)
    service = Script(tmp_path, "dying", "raise ValueError('out of luck')").supervised

    async with running(service) as task:
        with pytest.raises(GaveUpError, match="died 10 times in a minute: ValueError: out of luck"):
            await asyncio.wait_for(task, 120)


async def test_a_service_that_does_not_end_when_asked_is_killed_with_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.3)
    service = Script(
        tmp_path,
        "deaf",
        """
        import os, signal, subprocess, sys, time
        from pathlib import Path
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(os.environ["FOLDER"], "child").write_text(str(child.pid))
        time.sleep(60)
        """,
    ).supervised
    pid_file = tmp_path / "child"
    async with running(service):
        assert await until(lambda: pid_file.exists() and pid_file.read_text())
        pid = service.pid

    assert await gone(pid)
    assert await gone(int(pid_file.read_text()))


async def test_a_service_ends_with_the_suite_that_was_killed(tmp_path: Path) -> None:
    package = tmp_path / "vistaflow_services_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "bound.py").write_text("import time; time.sleep(60)")
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent("""
            import os, subprocess, sys, time
            child = subprocess.Popen([
                sys.executable, "-m", "vistaflow_services.suite.child", str(os.getpid()),
                "vistaflow_services_of_test.bound",
            ])
            time.sleep(1)
            print(child.pid, flush=True)
            time.sleep(60)
        """),
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert started_at(child) is not None

    parent.kill()
    await parent.wait()

    assert await gone(child)


def test_no_connection_is_given_the_port_of_a_service() -> None:
    """A connection of anybody on the machine took the port of a service before it listened."""
    lowest = int(EPHEMERAL.read_text("ascii").split()[0])

    services = [Supervised(str(each), port=0, logs=Path()) for each in range(100)]

    assert [each.port for each in services if each.port >= lowest] == []


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(GaveUpError, match=rf"127\.0\.0\.1:{port}: .* choose another"):
            check_port(port)

    check_port(port)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it printed nothing"),
        ("one\ntwo\n\n", "two"),
        ('{"level": "ERROR", "message": "a"}\n{"level": "INFO", "message": "b"}\n', "a"),
        ('{"level": "INFO", "message": "b"}\nTraceback\nKeyError: 3\n', "KeyError: 3"),
        ('[1]\n"x"\n', '"x"'),
    ],
)
def test_the_last_error_is_found_among_what_was_printed(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "x.out").write_text(text)

    assert last_error(tmp_path / "x.out") == told
    assert last_error(tmp_path / "y.out") == "it printed nothing"


async def test_a_service_that_cannot_be_asked_whether_it_serves_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_TLS_CA", str(tmp_path / "absent.pem"))
    script = Script(tmp_path, "plain", SERVING)
    try:
        async with asyncio.timeout(120):
            with pytest.raises(GaveUpError, match=r"absent\.pem: No such file or directory"):
                await script.supervised.run()
    finally:
        await script.supervised.stop()
