"""How kits end that do not simply finish: canceled, retried, failed, refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vistaflow
from tests.e2e.conftest import Suite  # type: ignore[import-not-found]
from tests.e2e.slow_kit import Puts, points_folder, write_kit  # type: ignore[import-not-found]
from vistaflow_services.suite.ports import free_port


@pytest.fixture
def client(suite: Suite) -> Iterator[vistaflow.Client]:
    with vistaflow.connect(suite.address) as made:
        yield made


def until(holds: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def kit_named(client: vistaflow.Client, name: str) -> vistaflow.Kit:
    """The one kit of a name; schedules of other tests may make kits at any time."""
    (kit,) = client.kits(name_contains=name)
    return kit


def simulators(job_id: str) -> list[str]:
    """Commands of the simulator runs of a job that go on now."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            folder = os.readlink(entry / "cwd")
        except OSError:
            continue
        if "python_deck" in command and (job_id in command or job_id in folder):
            found.append(command)
    return found


def test_a_canceled_kit_stops_in_the_middle_of_its_runs_and_goes_on_when_retried(
    suite: Suite, client: vistaflow.Client, hold: Path, tmp_path: Path
) -> None:
    hold.touch()  # whatever the machine does meanwhile, it does not finish
    kit_file = write_kit(tmp_path / "kit", "canceled", size=24, budget=4, seconds=0.1, hold=hold)
    kit = client.run(kit_file)
    with Puts(suite.home) as puts:
        design = kit.job("DOE").job_id
        assert until(lambda: client.job(design).status == "RUNNING", 120)
        points = points_folder(suite.home, client.kit(kit.kit_id))
        assert until(lambda: puts.of(points) and simulators(design), 120)

        suite.cli("cancel", str(kit.kit_id), "--reason", "enough")

        assert until(lambda: not simulators(design), 120)
        hold.unlink()
        canceled = client.kit(kit.kit_id)
        assert canceled.status == "CANCELED"
        assert canceled.job("design").status == "CANCELED"
        assert canceled.job("design").reason == "enough"
        with pytest.raises(vistaflow.KitFailedError, match="CANCELED"):
            client.wait(kit.kit_id)
        suite.cli("watch", str(kit.kit_id), code=1)
        kept = len(puts.of(points))
        assert 0 < kept < 24

        suite.cli("retry", str(kit.kit_id))
        ended = client.wait(kit.kit_id, timeout=240)

        assert ended.status == "FINISHED"
        result = ended.job("design").result
        assert result["cached_count"] >= kept
        assert ended.job("collect").attempt == 1
        assert ended.job("design").attempt == 2
        evaluated = puts.of(points)
        assert len(evaluated) == len(set(evaluated)) == 24 + 4


def test_a_kit_goes_on_in_a_corrected_deck_and_keeps_the_points_that_are_still_valid(
    suite: Suite, client: vistaflow.Client, hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    slow = f"while parameters['x'] > 1.0 and os.path.exists({str(hold)!r}): time.sleep(0.02)"
    kit_file = write_kit(tmp_path / "kit", "impatient", size=12, seconds=0, first=slow, budget=2)
    settings = kit_file.parent / "deck" / "deck.yaml"
    text = settings.read_text()
    settings.write_text(
        text.replace("timeout: 120", "timeout: 15\nfailure: {max_failed_fraction: 0.1}")
    )
    done = suite.cli("run", str(kit_file), code=1)
    kit = kit_named(client, "slow bowl impatient")
    assert f"vistaflow retry {kit.kit_id} --deck FOLDER" in done.stdout
    first = client.kit(kit.kit_id)
    good = [
        each
        for each in points_folder(suite.home, first).glob("*/points/*/*.json")
        if json.loads(each.read_bytes())["failure"] is None
    ]
    assert good
    before = [(each.name, each.status, each.revision) for each in first.jobs[:1]]

    hold.unlink()
    settings.write_text(text)
    suite.cli("retry", str(kit.kit_id), "--deck", str(settings.parent), "--reason", "impatient")
    ended = client.wait(kit.kit_id, timeout=240)

    assert ended.status == "FINISHED"
    assert [(each.name, each.status, each.revision) for each in ended.jobs[:1]] == before
    assert ended.job("collect").name == "collect@2"
    deck_ids = [each.result["decks"][0]["deck_id"] for each in ended.jobs[:2]]
    assert deck_ids[0] != deck_ids[1] == ended.job("design").result["deck_id"]
    assert ended.job("design").result["cached_count"] == len(good)
    assert ended.job("design").result["failed_count"] == 0
    rows = list(client.states(kit_ids=[kit.kit_id]))
    assert [each.reason for each in rows if each.metadata.get("event") == "REPLACES"] == [
        "impatient"
    ]


def test_a_kit_whose_every_run_fails_ends_failed_with_the_reason(
    suite: Suite, client: vistaflow.Client, tmp_path: Path
) -> None:
    broken = "raise ValueError('the bowl is cracked')"
    kit_file = write_kit(tmp_path / "kit", "cracked", seconds=0, first=broken)

    done = suite.cli("run", str(kit_file), code=1)

    assert "FAILED" in done.stdout
    assert "the bowl is cracked" in done.stdout
    assert "vistaflow retry" in done.stdout
    kit = kit_named(client, "slow bowl cracked")
    failed = client.kit(kit.kit_id).job("design")
    assert "failed, more than the 50% that its policy allows" in failed.reason
    assert client.kit(kit.kit_id).job("train").status == "INIT"
    told = suite.cli("logs", failed.job_id).stdout
    assert "attempt 1 of job" in told
    assert "the bowl is cracked" in told


def test_mistakes_in_a_deck_beside_the_kit_are_told_with_file_and_field(
    suite: Suite, tmp_path: Path
) -> None:
    kit_file = write_kit(tmp_path / "kit", "wrong")
    deck = tmp_path / "kit" / "deck" / "deck.yaml"
    deck.write_text(deck.read_text().replace("[-2, 2]", "[2, -2]", 1))

    told = suite.cli("run", str(kit_file), code=2).stderr

    assert "deck.yaml:7 parameters[0].range" in told


def test_a_kit_whose_deck_is_nowhere_is_told_so(suite: Suite, tmp_path: Path) -> None:
    kit_file = write_kit(tmp_path / "kit", "nowhere")
    shutil.rmtree(tmp_path / "kit" / "deck")

    told = suite.cli("run", str(kit_file), code=2).stderr

    assert "no such deck" in told
    assert "deck.yaml" in told


def test_nobody_there_is_told_with_what_to_do(suite: Suite) -> None:
    nobody = f"127.0.0.1:{free_port()}"

    told = suite.cli("kits", "--address", nobody, code=3).stderr

    assert "vistaflow up" in told
