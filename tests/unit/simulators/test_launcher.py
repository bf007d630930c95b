"""The launcher of runs ends with its thread, however it is collected."""

from __future__ import annotations

import gc
import threading

import pytest

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
