"""Failpoints: what they may be told, and what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.calls import CountedCalls
from vistaflow_services.core import failpoints
from vistaflow_services.core.failpoints import POINTS, FailpointError, armed, parse

PROGRAM = """
from vistaflow_services.core.failpoints import reached
for number in range(5):
    reached("append.after_commit")
    print(number, flush=True)
"""


def run(setting: str, hits: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "VISTAFLOW_FAILPOINT": setting,
            "VISTAFLOW_FAILPOINT_HITS": str(hits),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_process_dies_where_it_is_told_to_and_leaves_its_count(tmp_path: Path) -> None:
    done = run("append.after_commit=kill@3", tmp_path / "hits")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1"]
    assert (tmp_path / "hits").read_text().split() == ["append.after_commit"] * 3


def test_counting_alone_changes_nothing(tmp_path: Path) -> None:
    done = run("*=count", tmp_path / "hits")
    assert done.returncode == 0
    assert len((tmp_path / "hits").read_text().split()) == 5


def test_an_error_looks_like_a_lost_connection() -> None:
    reached = armed("append.before_commit=error@2")
    failpoints.hits.clear()
    reached("append.before_commit")
    with pytest.raises(FailpointError) as raised:
        reached("append.before_commit")
    assert isinstance(raised.value, OSError)


def test_a_stall_blocks_for_as_long_as_it_says() -> None:
    reached = armed("watch.before_send=sleep(0.05)")
    begun = time.monotonic()
    reached("watch.before_send")
    assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("append.after_comit=kill", "append.after_commit"),
        ("append.after_commit=explode", "<point>=<action>"),
        ("kill", "<point>=<action>"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: str, told: str) -> None:
    with pytest.raises(ValueError, match="VISTAFLOW_FAILPOINT") as raised:
        parse(setting)
    assert told in str(raised.value)


def test_every_point_in_the_code_is_listed_and_every_listed_point_is_in_the_code() -> None:
    services = Path(failpoints.__file__).parents[1]
    text = "".join(path.read_text() for path in services.rglob("*.py") if path.stem != "failpoints")
    for point in POINTS:
        assert f'"{point}"' in text, f"{point} is nowhere reached"
    assert text.count("reached(") - text.count("def reached(") >= len(POINTS)


def test_when_off_it_is_a_call_that_does_nothing() -> None:
    off = armed("")
    with CountedCalls() as counted:
        off("append.after_commit")
    assert counted.count == 1
