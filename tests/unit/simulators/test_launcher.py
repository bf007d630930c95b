"""The launcher of runs ends with its thread, however it is collected."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from vistaflow_services.simulators.processes import launch
from vistaflow_services.simulators.processes.launcher import Launcher, this_launcher


@pytest.mark.filterwarnings("error")
def test_a_launcher_in_a_cycle_of_references_is_closed_before_it_is_collected() -> None:
    """The collector may begin with its process and its socket, which warn that they are open."""
    launchers: list[int] = []

    def work() -> None:
        launcher: Launcher = this_launcher()
        launchers.append(launcher.pid)
        cycle: list[object] = [launcher]
        cycle.append(cycle)

    for _ in range(5):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    gc.collect()
    assert len(set(launchers)) == 5


def test_the_threads_of_a_user_are_counted_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit has room for the others' new ones, and a count reads all of `/proc`."""
    now, counts = [100.0], iter([7, 9])
    monkeypatch.setattr(launch, "LINUX", True)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(launch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(launch, "threads_of", lambda user: next(counts))
    threads = launch.Threads()
    seen = []
    for moment in (100.0, 100.9, 101.1, 101.2):
        now[0] = moment
        threads.refresh()
        seen.append(threads.count)
    assert seen == [7, 7, 9, 9]
