from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.processes import end, reaped  # type: ignore[import-not-found]
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core.home import HomeError
from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database import embedded, launcher
from vistaflow_services.registry.database.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    is_postgres,
    socket_folder,
)
from vistaflow_services.registry.database.migrations import migrate


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that nobody else can enter; what runs in it is stopped in the end."""
    path = tmp_path / "private" / "home"
    path.mkdir(parents=True)
    path.parent.chmod(0o700)
    yield path
    EmbeddedPostgres(path).stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_starts_is_adopted_and_stops_without_touching_a_folder_above(home: Path) -> None:
    before = [mode(folder) for folder in home.parents]
    first = EmbeddedPostgres(home)
    conninfo = first.start()
    second = EmbeddedPostgres(home)

    assert second.start() == conninfo
    assert second.pid == first.pid
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    assert mode(home / "pg") == 0o700
    assert [mode(folder) for folder in home.parents] == before

    second.stop()
    assert first.pid is None
    assert not first.answers()
    first.stop()


@pytest.mark.parametrize("command", [["rebuild", "--check"], ["tokens", "list"]])
def test_a_command_leaves_no_postgres_behind_that_was_not_up(
    home: Path, command: list[str]
) -> None:
    postgres = EmbeddedPostgres(home)
    migrate(postgres.start(), Config.schema, PACKAGE)
    postgres.stop()
    name, *arguments = command
    told = subprocess.run(
        [sys.executable, "-m", f"vistaflow_services.registry.{name}", *arguments],
        env={**os.environ, "VISTAFLOW_HOME": str(home)},
        check=False,
    )
    assert (told.returncode, postgres.answers()) == (0, False)


def test_a_command_that_is_ended_leaves_no_postgres_behind(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vistaflow_services.registry.backup", str(home / "file")],
        env={**os.environ, "VISTAFLOW_HOME": str(home)},
        stderr=subprocess.DEVNULL,
    )
    with reaped(process):
        while not (home / "pg" / "postmaster.pid").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in (1, 128 + signal.SIGTERM)
    assert processes(home) == []


def test_a_server_that_comes_up_and_refuses_is_told_as_one_that_cannot_run(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    conninfo = make_conninfo(postgres.start(), dbname="postgres")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DROP DATABASE vistaflow")
        connection.execute("ALTER DATABASE template1 RENAME TO away")
    # Whoever supervises it tries again after this, and would end after anything else.
    with pytest.raises(EmbeddedError, match="template1"):
        postgres.start()
    postgres.stop()


def test_a_pid_file_left_behind_does_not_hinder_whoever_has_the_pid_now(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.start()
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_postgres(pid, home / "pg") and time.monotonic() < deadline:
        postgres._reap()
        time.sleep(0.02)
    file = home / "pg" / "postmaster.pid"
    # The pid of this test stands for a reused one.
    file.write_text("\n".join([str(os.getpid()), *file.read_text().splitlines()[1:]]) + "\n")

    again = EmbeddedPostgres(home)
    again.start()

    assert again.answers()
    assert again.pid not in (pid, os.getpid())
    again.stop()
    postgres.stop()


def test_a_folder_that_holds_something_else_is_left_alone(home: Path) -> None:
    (home / "pg").mkdir()
    (home / "pg" / "thesis.tex").write_text("precious")
    with pytest.raises(EmbeddedError, match="no PostgreSQL data folder"):
        EmbeddedPostgres(home).start()
    assert [each.name for each in (home / "pg").iterdir()] == ["thesis.tex"]


STARTED_AND_STOPPED = """
import sys
from pathlib import Path
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
postgres.start()
print("answers:", postgres.answers())
postgres.stop()
"""
ROOT = "root:x:0:0:root:/root:/bin/sh"


@pytest.mark.parametrize(
    ("uid", "users"),
    [
        pytest.param(0, [ROOT, "daemon:x:1:1::/:/bin/false"], id="root-where-nobody-is-1000"),
        pytest.param(0, [ROOT], id="root-where-only-root-has-a-name"),
        pytest.param(12345, [ROOT, "daemon:x:1:1::/:/bin/false"], id="a-user-without-a-name"),
        pytest.param(12345, [ROOT], id="a-user-without-a-name-where-only-root-has-one"),
    ],
)
def test_it_starts_for_root_and_for_users_without_a_name(
    home: Path, tmp_path: Path, uid: int, users: list[str]
) -> None:
    (tmp_path / "passwd").write_text("\n".join(users) + "\n", "ascii")
    # First root, who may mount, then that number, as a container runs its process.
    names = f"mount --bind {shlex.quote(str(tmp_path / 'passwd'))} /etc/passwd"
    user = f"unshare --user --map-user={uid} --map-group={uid}"
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount"),
            *("sh", "-c", f'{names} && exec {user} "$0" "$@"'),
            *(sys.executable, "-c", STARTED_AND_STOPPED, str(home)),
        ],
        env={name: text for name, text in os.environ.items() if name != "HOME"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("answers: True\n", 0), done.stderr


def test_it_starts_in_a_closed_home_where_namespaces_are_not_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = launcher._works

    def works_without_namespaces(*command: str) -> bool:
        return "namespace" not in command and works(*command)

    monkeypatch.setattr(launcher, "_works", works_without_namespaces)
    postgres = EmbeddedPostgres(home)
    postgres.start()
    assert postgres.answers()
    postgres.stop()


def test_root_leaves_the_database_of_another_user_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.start()
    postgres.stop()
    monkeypatch.setattr(launcher, "owners", lambda: {4322})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = {path: path.lstat().st_uid for path in (home / "pg").rglob("*")}
    with pytest.raises(launcher.LaunchError, match="run vistaflow as that user"):
        launcher._give(home / "pg", 4322)
    assert {path: path.lstat().st_uid for path in (home / "pg").rglob("*")} == before


def test_root_leaves_the_home_of_another_user_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.start()
    postgres.stop()
    if os.geteuid() == 0:
        for path in [home, *home.rglob("*")]:
            os.chown(path, 4321, 4321, follow_symlinks=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = {path: path.lstat() for path in [home, *home.rglob("*")]}
    with pytest.raises(HomeError, match=f"{home} belongs to user .* without sudo"):
        EmbeddedPostgres(home).start()
    assert {path: path.lstat() for path in [home, *home.rglob("*")]} == before


@pytest.mark.parametrize(
    "name", ["a,b", "long" * 40, 'qu"ote', "o'clock", "a b %s", "試験", os.fsdecode(b"\xfc")]
)
@pytest.mark.parametrize("temporary", ["", "nowhere", "long" * 60])
def test_a_socket_lies_where_libpq_finds_it(
    name: str, temporary: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / temporary))
    folder = os.fsencode(socket_folder(Path("/data") / name / "pg"))
    assert len(folder + b"/.s.PGSQL.5432") < 107
    assert b"," not in folder
    assert folder.isascii()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert os.fsencode(socket_folder(Path("/data") / name / "pg")) == folder


@pytest.mark.parametrize("name", ["a, b", "d" * 150, os.fsdecode(b"\xfc")])
def test_it_starts_in_a_home_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / ("t" * 200)).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("t" * 200)))
    postgres = EmbeddedPostgres(tmp_path / name)
    postgres.start()
    monkeypatch.delenv("TMPDIR")
    again = EmbeddedPostgres(tmp_path / name)
    assert again.answers()
    postgres.stop()
    assert not again.answers()


def test_a_server_that_cannot_start_is_told_by_its_own_reason_and_leaves_nothing(
    home: Path,
) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.start()
    postgres.stop()
    with (home / "pg" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedError, match='invalid value for parameter "shared_buffers"'):
        EmbeddedPostgres(home).start()
    assert processes(home) == []


def test_a_server_that_refuses_us_is_told_by_its_own_reason_and_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.start()
    postgres.stop()
    monkeypatch.setattr(embedded, "REFUSAL_SECONDS", 0.1)
    (home / "pg" / "pg_hba.conf").write_text("local all all reject\n")
    with pytest.raises(EmbeddedError, match=r"pg_hba\.conf rejects connection"):
        EmbeddedPostgres(home).start()
    assert processes(home) == []


def test_a_server_left_behind_is_stopped_by_down(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.start()
    command = [sys.executable, "-m", "vistaflow.cli.app", "down", f"--home={home}"]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [run.stdout for run in runs] == [
        "vistaflow is down: stopped the PostgreSQL server that a suite had left running\n",
        "nothing is up\n",
    ]
    assert processes(home) == []
    postgres.stop()


def processes(home: Path) -> list[str]:
    """The command lines of the PostgreSQL that runs below a home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes()
            if os.fsencode(home) in line and b"/bin/" in line.split(b"\0")[0]:
                found.append(os.fsdecode(line))
    return found


class Process:
    """A registry as `vistaflow up` starts it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.file = home / "address"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        self.file.unlink(missing_ok=True)
        environment = os.environ | {
            "VISTAFLOW_HOME": str(self.home),
            "VISTAFLOW_REGISTRY_LISTEN": "127.0.0.1:0",
            "VISTAFLOW_REGISTRY_ADDRESS_FILE": str(self.file),
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vistaflow_services.registry"],
            env=environment,
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> str:
        self.launch()
        assert self.process is not None
        deadline = time.monotonic() + 120
        while not self.file.exists():
            assert self.process.poll() is None, "the registry did not start"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.file.read_text()

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        return end(self.process, sign=number)


@pytest.fixture
def process(home: Path) -> Iterator[Process]:
    made = Process(home)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGKILL)


async def kit_of_one(stub: RegistryServiceStub) -> str:
    created = await stub.CreateKit(
        pb.CreateKitRequest(name="k", jobs=[pb.NewJob(job_type=common.JOB_TYPE_DOE)]),
        wait_for_ready=True,
    )
    (job,) = created.kit.jobs
    state = common.State(job_id=job.job_id, status=common.STATUS_RUNNING)
    await stub.AppendStates(pb.AppendStatesRequest(states=[state]))
    return str(job.job_id)


async def test_sigterm_ends_the_registry_and_its_postgres(process: Process) -> None:
    address = await asyncio.to_thread(process.start)
    async with grpc.aio.insecure_channel(address) as channel:
        await kit_of_one(RegistryServiceStub(channel))
    assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
    assert EmbeddedPostgres(process.home).pid is None


@pytest.mark.parametrize(
    ("number", "sign"),
    [
        (signal.SIGTERM, "pg.new-*"),
        (signal.SIGHUP, "pg/postmaster.pid"),
        (signal.SIGINT, "pg/postmaster.pid"),
    ],
)
def test_a_registry_that_is_ended_while_it_starts_leaves_nothing(
    process: Process, number: signal.Signals, sign: str
) -> None:
    process.launch()
    assert process.process is not None
    while not list(process.home.glob(sign)):
        assert process.process.poll() is None
        time.sleep(0.01)
    assert process.end(number) in (0, 130)
    assert processes(process.home) == []


async def test_sighup_ends_the_registry_as_sigterm_does(process: Process) -> None:
    await asyncio.to_thread(process.start)
    assert await asyncio.to_thread(process.end, signal.SIGHUP) == 0
    assert EmbeddedPostgres(process.home).pid is None


async def test_a_killed_registry_leaves_a_postgres_that_the_next_one_adopts(
    process: Process,
) -> None:
    address = await asyncio.to_thread(process.start)
    async with grpc.aio.insecure_channel(address) as channel:
        await kit_of_one(RegistryServiceStub(channel))
    pid = EmbeddedPostgres(process.home).pid
    await asyncio.to_thread(process.end, signal.SIGKILL)
    assert EmbeddedPostgres(process.home).answers()

    address = await asyncio.to_thread(process.start)
    assert EmbeddedPostgres(process.home).pid == pid
    async with grpc.aio.insecure_channel(address) as channel:
        got = await RegistryServiceStub(channel).GetKit(pb.GetKitRequest(kit_id=1))
    assert got.kit.status == common.STATUS_RUNNING


async def test_no_acked_row_is_lost_when_postgres_is_killed(process: Process) -> None:
    address = await asyncio.to_thread(process.start)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = RegistryServiceStub(channel)
        job_ids = [await kit_of_one(stub) for _ in range(4)]
        acked: dict[tuple[str, int], int] = {}
        over = asyncio.Event()

        async def write(job_id: str) -> None:
            seq = 0
            while not over.is_set():
                seq += 1
                state = common.State(
                    job_id=job_id, status=common.STATUS_RUNNING, task_name=f"t{seq % 9}", seq=seq
                )
                request = pb.AppendStatesRequest(
                    states=[state], request_id=str(uuid.uuid4()) if seq % 2 else ""
                )
                answer = await stub.AppendStates(request, timeout=120)
                assert answer.results[0].verdict == pb.VERDICT_ACCEPTED
                acked[job_id, seq] = answer.results[0].revision
                await asyncio.sleep(0.002)

        writers = [asyncio.create_task(write(job_id)) for job_id in job_ids]
        for _ in range(2):
            await asyncio.sleep(0.7)
            pid = EmbeddedPostgres(process.home).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            before = len(acked)
            async with asyncio.timeout(120):
                while len(acked) < before + 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        over.set()
        await asyncio.gather(*writers)

        there: dict[tuple[str, int], int] = {}
        revisions = []
        token = ""
        while True:
            page = await stub.ListStates(pb.ListStatesRequest(page_size=5000, page_token=token))
            revisions += [row.revision for row in page.states]
            there |= {(row.job_id, row.seq): row.revision for row in page.states if row.seq}
            token = page.next_page_token
            if not token:
                break

    assert there == acked
    assert revisions == list(range(1, len(revisions) + 1))
