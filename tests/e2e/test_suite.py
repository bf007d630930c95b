"""The suite as a whole: up, up again, down, killed, two at once, and what cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import vistaflow
from tests.e2e.conftest import (  # type: ignore[import-not-found]
    SERVICES,
    START_SECONDS,
    Suite,
)
from tests.processes import reaped  # type: ignore[import-not-found]
from vistaflow_services.suite.ports import free_port


@contextmanager
def up(home: Path, port: int | None = None) -> Iterator[Suite]:
    """Brings a suite up with the CLI, and down at the end."""
    suite = Suite(home=home, address=f"127.0.0.1:{port or free_port()}")
    suite.cli("up", "--detach")
    try:
        yield suite
    finally:
        subprocess.run(
            [sys.executable, "-m", "vistaflow.cli.app", "down"], env=suite.env, check=False
        )


def processes(home: Path) -> dict[int, str]:
    """The processes that belong to a home, whoever started them."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        told = f"VISTAFLOW_HOME={home}\0".encode() in environment or f"{home}/" in command
        if state != "Z" and told:
            found[int(entry.name)] = command
    return found


def none_left(home: Path, seconds: float = START_SECONDS) -> dict[int, str]:
    """What is left of a home after so long; returns as soon as it is nothing."""
    end = time.monotonic() + seconds
    while (left := processes(home)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def announced(suite: Suite) -> None:
    """Waits until the registry lists all services, as it does right after they began to serve."""
    end = time.monotonic() + START_SECONDS
    with vistaflow.connect(suite.address) as client:
        while {
            service.name for service in client.server_info().services if service.status == "SERVING"
        } != set(SERVICES):
            assert time.monotonic() < end
            time.sleep(0.05)


def suite_pid(home: Path) -> int:
    return int(json.loads((home / "run" / "suite.json").read_text())["pid"])


def test_up_down_up_goes_on_with_the_old_data_and_leaves_no_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home) as suite:
        endpoints = json.loads((home / "run" / "endpoints.json").read_text())
        announced(suite)
        (told,) = suite.json("status")
        assert tuple(endpoints) == SERVICES
        assert endpoints["registry"] == suite.address
        assert {each["name"]: each["address"] for each in told["services"]} == endpoints
        assert {each["status"] for each in told["services"]} == {"SERVING"}
        with vistaflow.connect(suite.address) as client:
            kit = client.create_kit("kept", ["DOE"])
        pid = suite_pid(home)

        again = suite.cli("up", "--detach")

        assert f"already up: registry at {suite.address}, process {pid}" in again.stdout
        assert suite_pid(home) == pid

        assert "vistaflow is down" in suite.cli("down").stdout
        assert none_left(home) == {}
        assert not (home / "run" / "endpoints.json").exists()
        assert "nothing is up" in suite.cli("down").stdout
        assert "vistaflow up" in suite.cli("status", code=3).stderr

    with up(home) as suite, vistaflow.connect(suite.address) as client:
        kept = client.kit(kit.kit_id)
        assert (kept.name, kept.revision) == ("kept", kit.revision)
        assert client.create_kit("next").kit_id == kit.kit_id + 1
    assert none_left(home) == {}


def test_what_a_killed_suite_leaves_is_taken_up_by_the_next(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home) as suite:
        with vistaflow.connect(suite.address) as client:
            job = client.create_kit("kept", ["DOE"]).jobs[0]
            revision = client.append(job.job_id, "RUNNING")

        os.kill(suite_pid(home), signal.SIGKILL)

        assert none_left(home) == {}
        assert (home / "run" / "endpoints.json").exists()  # stale: the next must not trust it

    with up(home) as suite:
        with vistaflow.connect(suite.address) as client:
            assert client.job(job.job_id).status == "RUNNING"
            assert client.append(job.job_id, "FINISHED") == revision + 1
        postgres = suite.pid("postgres")
        # Frozen first, so that none can react to the death of another.
        pids = [suite_pid(home), *(suite.pid(each) for each in SERVICES)]
        assert all(pids)  # 0 would be this process and its group
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, signum)
        assert suite.pid("postgres") == postgres  # it alone is left

        # Before `down`, which would stop it.
        with up(home) as following:
            assert following.pid("postgres") == postgres
            with vistaflow.connect(following.address) as client:
                assert client.job(job.job_id).status == "FINISHED"
    assert none_left(home) == {}


@pytest.mark.parametrize("sign", ["run/suite.json", "pg/postmaster.pid", "run/endpoints.json"])
def test_a_suite_whose_terminal_is_closed_ends_with_all_it_has_started(
    own_home: Suite, sign: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vistaflow.cli.app", "up"],
        env=own_home.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with reaped(process):
        deadline = time.monotonic() + START_SECONDS
        while not (own_home.home / sign).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        process.wait(START_SECONDS)
    assert none_left(own_home.home) == {}
    assert own_home.cli("down").stdout == "nothing is up\n"


def test_two_homes_at_once_know_nothing_of_each_other(suite: Suite, tmp_path: Path) -> None:
    with (
        up(tmp_path / "home") as second,
        vistaflow.connect(suite.address) as one,
        vistaflow.connect(second.address) as other,
    ):
        one.create_kit("of the first")
        assert other.create_kit("of the second").kit_id == 1
        assert [each.name for each in other.kits(project="default")] == ["of the second"]
        assert "of the second" not in [each.name for each in one.kits()]
        assert one.server_info().epoch != other.server_info().epoch
    assert none_left(tmp_path) == {}
    assert suite.serves("registry")


def test_a_taken_port_is_told_at_once(own_home: Suite) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        own_home = replace(own_home, address=f"127.0.0.1:{taken.getsockname()[1]}")

        told = own_home.cli("up", "--detach", code=1).stderr

    assert f"cannot listen on {own_home.address}" in told
    assert "--port" in told
    assert none_left(own_home.home) == {}


@pytest.mark.parametrize(
    ("variable", "value", "service", "said"),
    [
        ("VISTAFLOW_REGISTRY_SCHEMA", "no-name", "registry", "no plain lower-case name"),
        ("VISTAFLOW_DOE_CAPACITY", "many", "doe", "CAPACITY"),
    ],
)
def test_a_service_that_cannot_start_is_given_up_with_its_reason(
    own_home: Suite,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    service: str,
    said: str,
) -> None:
    monkeypatch.setenv(variable, value)

    told = own_home.cli("up", "--detach", code=1).stderr

    assert f"vistaflow stopped: {service} cannot start" in told
    assert said in told
    assert f"vistaflow logs {service}" in told
    assert "Traceback" not in told
    assert none_left(own_home.home) == {}
