"""Each example is run as it stands, on a suite as it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vistaflow
from tests.e2e.conftest import Suite, lines  # type: ignore[import-not-found]

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(suite: Suite, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=suite.env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_existing_script_is_watched_like_any_job(suite: Suite, tmp_path: Path) -> None:
    script = [sys.executable, str(EXAMPLES / "external_job.py"), "25", "200", "85"]
    with subprocess.Popen(script, env=suite.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        kit_id = process.stdout.readline().split()[-1]
        watch = [sys.executable, "-m", "vistaflow.cli.app", "watch", kit_id, "--json"]
        with lines(watch, suite, tmp_path / "watch.jsonl") as watcher:
            assert process.stdout.read().strip() == "FINISHED"
            assert watcher.wait(120) == 0
    assert process.returncode == 0

    seen = [json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]
    assert [(each["task_name"], each["status"]) for each in seen] == [
        ("", "QUEUED"),
        ("", "RUNNING"),
        ("25 degC", "RUNNING"),
        ("25 degC", "FINISHED"),
        ("200 degC", "RUNNING"),
        ("200 degC", "FAILED"),
        ("85 degC", "RUNNING"),
        ("85 degC", "FINISHED"),
        ("", "FINISHED"),
    ]
    with vistaflow.connect(suite.address) as client:
        assert client.kit(int(kit_id)).jobs[0].result == {"25 degC": 1e-12, "85 degC": 6.4e-11}


def test_failures_are_told_once_also_those_that_happened_meanwhile(
    suite: Suite, tmp_path: Path
) -> None:
    script = [sys.executable, str(EXAMPLES / "watch_failures.py"), str(tmp_path / "seen.txt")]
    told, revisions = "", []
    with vistaflow.connect(suite.address) as client:

        def fail(reason: str) -> None:
            job = client.create_job("DOE")
            client.append(job.job_id, "RUNNING")
            revisions.append(client.append(job.job_id, "FAILED", reason=reason))

        for first, second in (("before", "while it ran"), ("while it did not", "after")):
            fail(first)
            output = tmp_path / f"{first}.txt"
            with lines(script, suite, output):
                wait_for(output, revisions[-1])
                fail(second)
                wait_for(output, revisions[-1])
                # Killed only once it has noted what it told: at least once is what it promises.
                wait_for(tmp_path / "seen.txt", revisions[-1])
            told += output.read_text()

    ours = [line for line in told.splitlines() if int(line.split(":")[0]) in revisions]
    assert [int(line.split(":")[0]) for line in ours] == revisions
    reasons = ["before", "while it ran", "while it did not", "after"]
    assert [line.rpartition(": ")[2] for line in ours] == reasons


def wait_for(path: Path, revision: int) -> None:
    """Waits until a file names a revision, or one beyond it."""
    end = time.monotonic() + 120
    while True:
        found = re.findall(r"^\d+", path.read_text() if path.exists() else "", re.MULTILINE)
        if any(int(each) >= revision for each in found):
            return
        assert time.monotonic() < end, f"{path.name} does not say {revision}: {found}"
        time.sleep(0.05)


def test_a_loop_of_ones_own_finds_more_than_its_design(suite: Suite) -> None:
    told = run(suite, "own_loop.py")

    found = re.search(r"lowest of the design: (\S+)\nlowest promised: (\S+) to (\S+) at", told)
    assert found, told
    of_design, low, high = map(float, found.groups())
    assert low < high
    assert low < of_design


def test_the_registry_is_driven_by_the_commands_of_grpcurl_md(suite: Suite) -> None:
    text = (EXAMPLES / "grpcurl.md").read_text()
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=suite.env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    assert re.findall(r'"verdict": *"VERDICT_(\w+)"', done.stdout) == [
        "ACCEPTED",
        "ACCEPTED",
        "REJECTED",
    ]
    _, _, listed = done.stdout.rpartition('"VERDICT_REJECTED"')
    assert re.findall(r'"status": *"STATUS_(\w+)"', listed) == ["QUEUED", "RUNNING", "FINISHED"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_needs_no_more_than_the_client(path: Path) -> None:
    assert "vistaflow_services" not in path.read_text()
