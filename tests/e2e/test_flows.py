"""A data kit on the whole suite, whose services are killed between its jobs."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import vistaflow
from tests.e2e.conftest import Suite  # type: ignore[import-not-found]
from tests.site import serving_site  # type: ignore[import-not-found]

WHISKY = Path(__file__).parents[2] / "examples" / "whisky"
ORDER = ("pages", "whisky", "tasted")
DATASETS = {"whisky": "killed", "tasting": "killed_tasting", "tasted": "killed_tasted"}
"""Names of this test's own, where other tests run the same flow."""


@pytest.mark.timeout(900)
def test_a_night_survives_kills_between_its_jobs(suite: Suite, tmp_path: Path) -> None:
    shutil.copytree(WHISKY, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "people.json", suite.data / "killed.json")
    kit_yaml = (tmp_path / "kit.yaml").read_text()
    for name, own_name in DATASETS.items():
        kit_yaml = kit_yaml.replace(f"dataset: {name}\n", f"dataset: {own_name}\n")
    for name, own_name in (("people.json", "killed.json"), ("raw/final", "raw/killed")):
        kit_yaml = kit_yaml.replace(name, own_name)
    (tmp_path / "kit.yaml").write_text(kit_yaml)
    selectors = (tmp_path / "whiskies.yaml").read_text().replace("127.0.0.1:8400", suite.site)
    (tmp_path / "whiskies.yaml").write_text(selectors)
    port = int(suite.site.rpartition(":")[2])
    with serving_site(port) as site, vistaflow.connect(suite.address) as client:
        for name in ("1.html", "2.html"):
            site.html(f"/{name}", (tmp_path / "site" / name).read_text())
        kit_id = client.run(tmp_path / "kit.yaml").kit_id
        end = time.monotonic() + 400
        for name in ORDER:
            while client.kit(kit_id).job(name).status != "FINISHED":
                assert time.monotonic() < end, client.kit(kit_id)
                time.sleep(0.05)
            suite.kill("pipeline")
            suite.kill("ingestion")
        kit = client.wait(kit_id, timeout=400)
        suite.wait_for("pipeline", "ingestion")  # as other tests expect

        assert {job.status for job in kit.jobs} == {"FINISHED"}
        assert kit.job("whisky").result["version"] == 1
        assert client.dataset("killed").pb.dataset.version_count == 1
        final = kit.job("final").result
        assert final["pinned"] == client.dataset("killed_tasted@final").name.removeprefix(
            "default."
        )
