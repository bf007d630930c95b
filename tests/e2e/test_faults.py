"""Services and PostgreSQL are killed in the middle of a kit; it ends as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vistaflow
from tests.e2e.conftest import Suite, start_suite  # type: ignore[import-not-found]
from tests.e2e.slow_kit import (  # type: ignore[import-not-found]
    Puts,
    Reporter,
    ended,
    optimum,
    points_folder,
    watching,
    write_kit,
)

VICTIMS = ("registry", "ingestion", "doe", "ml", "optimize", "pipeline", "postgres")
SHORT = ("doe", "registry", "postgres", "ml", "optimize")
SEED = 20260
FROZEN_SECONDS = 25.0
"""Longer than a lease."""


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A kit that nobody disturbed, and how long it took."""

    suite: Suite
    kit: vistaflow.Kit
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """A suite of this module's own, with a first kit that ran to its end."""
    folder = tmp_path_factory.mktemp("faults")
    for suite in start_suite(folder / "home"):
        with vistaflow.connect(suite.address) as client:
            begun = time.monotonic()
            started = client.run(write_kit(folder / "first", "undisturbed"))
            kit = ended(suite.address, started.kit_id)
        yield Undisturbed(suite=suite, kit=kit, seconds=time.monotonic() - begun)


def disturb(
    undisturbed: Undisturbed,
    folder: Path,
    version: str,
    victims: tuple[str, ...],
    moments: int,
    fault: Callable[[Suite, str], int],
) -> None:
    """Runs the same kit anew, does harm at random moments, and compares everything."""
    suite = undisturbed.suite
    chance = random.Random(f"{SEED} {version}")
    # A moment in each equal part of the kit's time; its end is left out, or it might be over.
    part = 0.85 * undisturbed.seconds / moments
    times = [part * (at + chance.random()) for at in range(moments)]
    order = [victims[at % len(victims)] for at in range(moments)]
    harmed = []
    with Puts(suite.home) as puts, Reporter(suite.address) as reporter:
        # What the test before killed last may still be starting.
        with vistaflow.connect(suite.address, timeout=180) as client:
            begun = time.monotonic()
            kit_id = client.run(write_kit(folder, version)).kit_id
        with watching(suite.address, kit_id) as seen:
            for victim, moment in zip(order, times, strict=True):
                time.sleep(max(0.0, begun + moment - time.monotonic()))
                harmed.append(fault(suite, victim))
            kit = ended(suite.address, kit_id)

    assert all(harmed)
    assert kit.status == "FINISHED"
    assert optimum(kit) == optimum(undisturbed.kit)
    with vistaflow.connect(suite.address) as client:
        stored = [each.revision for each in client.states(kit_ids=[kit_id])]
    assert seen.revisions == stored
    assert len(reporter.acked) > 10
    assert reporter.lost() == {}
    evaluated = puts.of(points_folder(suite.home, kit))
    assert len(evaluated) == len(set(evaluated))
    assert len(evaluated) == len(kit_points(suite, undisturbed.kit)) > 16


def kill(suite: Suite, victim: str) -> int:
    """Kills the victim, if need be as soon as it is there again."""
    return int(suite.kill(victim))


def freeze(suite: Suite, victim: str) -> int:
    """Stops the victim for longer than its lease lasts, then lets it go on as if nothing were."""
    pid = int(suite.pid(victim))
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(FROZEN_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)
    return pid


def kit_points(suite: Suite, kit: vistaflow.Kit) -> list[Path]:
    """The points that a kit's deck was evaluated at."""
    return list(points_folder(suite.home, kit).glob("*/points/*/*.json"))


@pytest.mark.timeout(900)
def test_a_kit_survives_the_kill_of_one_service_after_another(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    disturb(undisturbed, tmp_path / "kit", "one after another", SHORT, len(SHORT), kill)


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kit_survives_three_kills(undisturbed: Undisturbed, tmp_path: Path, victim: str) -> None:
    disturb(undisturbed, tmp_path / "kit", f"three {victim}", (victim,), 3, kill)


@pytest.mark.slow
def test_a_kit_survives_the_kill_of_everything_at_once(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    disturb(undisturbed, tmp_path / "kit", "everything", VICTIMS, 2 * len(VICTIMS), kill)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["registry", "doe", "optimize", "postgres"])
def test_a_kit_survives_what_is_frozen_and_comes_back(
    undisturbed: Undisturbed, tmp_path: Path, victim: str
) -> None:
    disturb(undisturbed, tmp_path / "kit", f"frozen {victim}", (victim,), 1, freeze)
