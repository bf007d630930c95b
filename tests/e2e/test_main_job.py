"""The main job, as its users do it: from a deck to a verified optimum, watched live."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import vistaflow
from tests.e2e.conftest import Suite, lines  # type: ignore[import-not-found]

pytestmark = pytest.mark.timeout(900)  # whole kits, on a machine that does others' work, too

BEAM = """\
name: cheapest welded beam
deck: welded_beam
seed: 1
design: {size: 30}
goals:
  - minimize cost
  - tau <= 13600
  - sigma <= 30000
  - deflection <= 0.25
  - pc >= 6000
optimize: {budget: 28, batch_size: 2}
"""
ORDER = ["collect", "design", "preprocess", "scale", "train", "test", "optimize"]


@pytest.fixture(scope="module")
def beam(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The result of the welded beam kit, with what a second terminal saw meanwhile."""
    folder = tmp_path_factory.mktemp("beam")
    kit_file = folder / "kit.yaml"
    kit_file.write_text(BEAM)
    (started,) = suite.json("run", str(kit_file), "--detach")
    kit_id = started["kit_id"]
    watch = [sys.executable, "-m", "vistaflow.cli.app", "watch", str(kit_id), "--json"]
    with lines(watch, suite, folder / "watch.jsonl") as watcher:
        suite.cli("watch", str(kit_id))
        assert watcher.wait(120) == 0
    (kit,) = suite.json("show", str(kit_id))
    seen = [json.loads(line) for line in (folder / "watch.jsonl").read_text().splitlines()]
    return {"kit": kit, "seen": seen}


def test_the_seven_jobs_finish_in_order(beam: dict) -> None:
    assert [
        (each["name"], each["current_order"], each["status"]) for each in beam["kit"]["jobs"]
    ] == [(name, order, "FINISHED") for order, name in enumerate(ORDER, start=1)]


def test_the_optimum_is_the_known_one_within_one_percent(beam: dict) -> None:
    best = beam["kit"]["jobs"][-1]["result"]["best"]

    assert best["feasible"]
    assert best["verified"]
    assert 1.724852 * 0.999 <= best["objective"] <= 1.724852 * 1.01


def test_a_second_terminal_saw_every_row_once_and_in_order(suite: Suite, beam: dict) -> None:
    stored = suite.json("states", str(beam["kit"]["kit_id"]))

    assert [each["revision"] for each in beam["seen"]] == [each["revision"] for each in stored]


def test_the_same_history_is_in_the_database(suite: Suite, beam: dict) -> None:
    kit_id = beam["kit"]["kit_id"]
    socket_line = (suite.home / "pg" / "postmaster.pid").read_text().splitlines()
    with psycopg.connect(
        host=socket_line[4], port=socket_line[3], user="vistaflow", dbname="vistaflow"
    ) as conn:
        rows = conn.execute(
            "SELECT id, job_type, task_name, status FROM vistadb_test.mlops_totalstate_table"
            " WHERE kit_id = %s ORDER BY id",
            [kit_id],
        ).fetchall()

    assert rows == [
        (each["revision"], each["job_type"], each["task_name"], each["status"])
        for each in suite.json("states", str(kit_id))
    ]


def test_the_model_predicts_what_was_simulated(suite: Suite, beam: dict) -> None:
    kit_id = beam["kit"]["kit_id"]
    with vistaflow.connect(suite.address) as client:
        kit = client.kit(kit_id)
        rows = client.design_rows(kit.job("design").job_id)
        points = [{name: row[name] for name in ("h", "l", "t", "b")} for row in rows]
        predicted = client.predict(kit.job("train").job_id, points)

    errors = [
        abs(each["cost"].mean - row["cost"]) / row["cost"]
        for each, row in zip(predicted, rows, strict=True)
    ]
    assert sorted(errors)[len(errors) // 2] < 0.02
    assert all(each["cost"].unit == "USD" for each in predicted)


def test_a_kit_is_predicted_with_what_its_optimisation_learnt(suite: Suite, beam: dict) -> None:
    kit_id = beam["kit"]["kit_id"]
    best = beam["kit"]["jobs"][-1]["result"]["best"]
    point = [f"{name}={value!r}" for name, value in best["point"].items()]
    told = suite.cli("predict", "--json", str(kit_id), *point)
    with vistaflow.connect(suite.address) as client:
        study = client.study(client.kit(kit_id).job("optimize").job_id)
    assert json.loads(told.stdout)["cost"]["mean"] == pytest.approx(best["objective"], rel=0.01)
    assert told.stderr.strip() == (
        f"model {study.model_id} of kit {kit_id}, made by its optimisation, "
        f"trained on {study.model_row_count} rows"
    )


def test_a_kit_with_mistakes_is_refused_with_all_of_them(suite: Suite, tmp_path: Path) -> None:
    kit_file = tmp_path / "kit.yaml"
    kit_file.write_text(
        "name: wrong\ndeck: welded_beam\ndesign: {size: 3, parameters: {hh: [1, 2]}}\n"
        "goals: minimize price; tau <= 1\n"
    )

    told = suite.cli("run", str(kit_file), code=2).stderr

    assert "kit.yaml:3 design.parameters.hh" in told
    assert "kit.yaml:3 design.size" in told
    assert "kit.yaml:4 goals" in told


def test_the_suite_is_driven_by_reflection_alone(suite: Suite) -> None:
    def curl(method: str, body: dict) -> list[dict]:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("buf")),
                "curl",
                "--protocol=grpc",
                "--http2-prior-knowledge",
                "--reflect-protocol=grpc-v1alpha",
                f"--data={json.dumps(body)}",
                f"http://{suite.address}/vistaflow.api.registry.v1.RegistryService/{method}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
        while text:
            value, end = decoder.raw_decode(text)
            found.append(value)
            text = text[end:].strip()
        return found

    (created,) = curl("CreateKit", {"name": "by hand", "jobs": [{"jobType": "JOB_TYPE_DOE"}]})
    job = created["kit"]["jobs"][0]
    for status in ("STATUS_RUNNING", "STATUS_FINISHED"):
        (answer,) = curl(
            "AppendStates",
            {"states": [{"jobId": job["jobId"], "status": status, "metadata": {"by": "curl"}}]},
        )
        assert answer["results"][0]["verdict"] == "VERDICT_ACCEPTED"
    (found,) = curl("GetKit", {"kitId": created["kit"]["kitId"]})
    assert found["kit"]["status"] == "STATUS_FINISHED"
    (page,) = curl("ListStates", {"filter": {"kitIds": [created["kit"]["kitId"]]}})
    assert [each["status"] for each in page["states"]] == [
        "STATUS_QUEUED",
        "STATUS_RUNNING",
        "STATUS_FINISHED",
    ]


@pytest.mark.parametrize(
    "kit",
    [
        "mosfet",
        pytest.param(
            "opamp", marks=pytest.mark.skipif(shutil.which("ngspice") is None, reason="no ngspice")
        ),
    ],
)
def test_a_real_device_is_better_than_its_best_designed_point_and_meets_all(
    suite: Suite, kit: str
) -> None:
    *_, result = suite.json("run", kit)

    assert result["feasible"]
    assert all(result["constraints"].values())
    assert result["design_best_objective"] is None or (
        result["objective"] > result["design_best_objective"]
        if "maximize" in suite.json("show", str(result["kit_id"]))[0]["spec"]["goals"]
        else result["objective"] < result["design_best_objective"]
    )
