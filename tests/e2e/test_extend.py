"""Kits that go on from what is known, and where results come from, as a user runs it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import vistaflow
from tests.e2e.conftest import Suite

ROOT = Path(__file__).parents[2]
DECK = """\
name: counted
version: "1"
description: A valley; each run leaves a line.
simulator: python
entry: run.py:solve
parameters:
  - {name: x, range: [0, 1]}
  - {name: y, range: [0, 1]}
responses:
  - {name: depth}
  - {name: width, unit: um}
timeout: 60
"""
RUN = """\
import os

def solve(p):
    return {
        "depth": (p["x"] - 0.31) ** 2 + 2 * (p["y"] - 0.64) ** 2 + p["x"] * p["y"] / 5,
        "width": p["x"] + p["y"],
    }
"""
KIT = """\
name: valley
deck: ./deck
seed: 2
design: {generator: sobol, size: 12}
ml: {families: [gaussian_process], folds: 3}
goals: minimize depth
optimize: {budget: 2, batch_size: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valley")
    (folder / "deck").mkdir()
    (folder / "deck" / "deck.yaml").write_text(DECK)
    (folder / "deck" / "run.py").write_text(RUN)
    (folder / "kit.yaml").write_text(KIT)
    return folder


@pytest.fixture(scope="module")
def first(suite: Suite, folder: Path) -> int:
    return int(suite.json("run", str(folder / "kit.yaml"))[-1]["kit_id"])


def stored(suite: Suite) -> set[str]:
    """The points that the store has, of every deck."""
    return {path.name for path in (suite.home / "artifacts" / "points").rglob("points/*/*.json")}


def test_a_kit_is_extended_to_a_better_optimum_and_nothing_is_run_twice(
    suite: Suite, first: int
) -> None:
    with vistaflow.connect(suite.address) as client:
        before = client.study(client.kit(first).job("optimize").job_id)
        points = stored(suite)
        kit = client.extend_kit(first, budget=6)
        client.wait(kit.kit_id, timeout=120)
        kit = client.kit(kit.kit_id)
        after = client.study(kit.job("optimize").job_id)
        rows = client.design_rows(kit.job("design").job_id)
        trials = client.trials(after.study_id)
    assert kit.spec["extends"] == first
    assert kit.spec["reuse"] == {"kits": [first], "only": True}
    assert {row["origin"] for row in rows} == {f"kit {first}"}
    assert len(rows) == 12 + 2
    assert {trial.source for trial in trials if trial.origin == "doe"} == {f"kit {first}"}
    infill = [trial for trial in trials if trial.origin == "infill"]
    assert len(infill) == 6
    assert len(stored(suite) - points) == 6
    known = {tuple(trial.parameters.values()) for trial in trials if trial.origin == "doe"}
    assert not known & {tuple(trial.parameters.values()) for trial in infill}
    assert before.best.objective is not None
    assert after.best.objective is not None
    assert after.best.objective < before.best.objective
    assert after.best.origin == "verify"


@pytest.fixture(scope="module")
def second(suite: Suite, folder: Path) -> int:
    """A kit that stops after its design."""
    settings = ["--set", "stop_after=doe", "--set", "name=stopped", "--set", "design.size=24"]
    suite.cli("run", str(folder / "kit.yaml"), *settings, "--set", "seed=9")
    return int(suite.json("kits", "--limit", "1")[0]["kit_id"])


def test_a_kit_that_stopped_goes_on_with_the_rest_and_other_goals_and_ranges(
    suite: Suite, second: int
) -> None:
    points = stored(suite)
    arguments = ["--budget", "+2", "--goal", "maximize width", "--goal", "depth <= 0.4"]
    narrowed = [*arguments, "--narrow", "x=0:0.5", "--detach"]
    with vistaflow.connect(suite.address) as client:
        kits = [kit.kit_id for kit in client.kits()]
        estimate = client.estimate_extension(
            second, budget=2, goals="maximize width", narrow={"x": [0, 0.5]}
        )
        # Two runs of the study and the one that verifies its best; nothing is started for it.
        assert 1 <= estimate.run_count <= 3
        assert estimate.HasField("confirmation_limit")
        assert [kit.kit_id for kit in client.kits()] == kits
    kit_id = suite.json("extend", str(second), *narrowed)[0]["kit_id"]
    with vistaflow.connect(suite.address) as client:
        for event in client.watch(kit_ids=[kit_id], job_types=["DOE"], statuses=["FINISHED"]):
            if any(not state.task_name for state in getattr(event, "states", ())):
                break
        kit = client.kit(kit_id)
        client.cancel_kit(kit_id)
    assert [job.name for job in kit.jobs][-2:] == ["test", "optimize"]
    assert kit.spec["goals"] == "maximize width\ndepth <= 0.4"
    assert kit.spec["optimize"]["budget"] == 2
    assert stored(suite) == points
    shown = suite.cli("show", str(kit_id)).stdout
    assert f"extends kit {second}; " in shown
    csv = suite.cli("points", str(kit_id)).stdout.splitlines()
    assert csv[0].endswith(",origin")
    # What is outside the range is left out.
    assert 10 <= len(csv[1:]) < 24
    assert all(line.endswith(f",kit {second}") for line in csv[1:])


@pytest.mark.parametrize(
    ("options", "field", "problem"),
    [
        ({"budget": 200_000}, "budget", "200000 is not from 1 to 100000"),
        ({"goals": "minimize deptth"}, "goals", "did you mean `depth`"),
        ({"narrow": {"x": [0.4, 7]}}, "design.parameters.x", "may narrow the deck's range"),
        ({"narrow": {"z": 1}}, "design.parameters.z", "unknown parameter"),
        ({"narrow": {"x": [1e-6, 2e-6]}}, "reuse", "no known point inside the space"),
    ],
)
def test_mistakes_of_an_extension_start_nothing(
    suite: Suite, first: int, options: dict[str, Any], field: str, problem: str
) -> None:
    with vistaflow.connect(suite.address) as client:
        newest = next(iter(client.kits(limit=1))).kit_id
        with pytest.raises(vistaflow.InvalidArgumentError) as refused:
            client.extend_kit(first, **options)
        (mistake, *_) = [one for one in refused.value.violations if one.field.startswith(field)]
        assert problem in mistake.description
        assert next(iter(client.kits(limit=1))).kit_id == newest


def test_a_kit_that_is_not_there_is_not_extended(suite: Suite) -> None:
    failed = suite.cli("extend", "999999", "--budget", "+2", code=1)
    assert "there is no kit 999999" in failed.stderr


def test_measurements_and_two_kits_are_reused_and_traced_both_ways(
    suite: Suite, folder: Path, first: int, second: int
) -> None:
    """A dataset of measured points, a design kit of it and of two kits, and its lineage."""
    bench = folder / "bench_7.csv"
    bench.write_text("x,y,depth,width,lot\n0.3,0.6,0.05,0.9,a\n0.9,0.1,0.9,1.0,b\n")
    suite.cli("dataset", "import", "valley_bench", str(bench), "--deck", str(folder / "deck"))
    kit = str(folder / "kit.yaml")
    reuse = f"[kit {first}, kit {second}, dataset valley_bench, all]"
    points = stored(suite)
    settings = ["--set", "name=third", "--set", f"reuse={reuse}", "--set", "design.size=12"]
    answer = suite.json("validate", kit, *settings)[0]
    assert [one["origin"] for one in answer["reused"]] == [
        f"kit {first}",
        f"kit {second}",
        "store",
        "dataset default.valley_bench@1",
    ]
    result = suite.json("run", kit, *settings)[-1]
    # The design is that of the first kit: it is not run again.
    assert len(stored(suite) - points) == 2
    with vistaflow.connect(suite.address) as client:
        third = client.kit(result["kit_id"])
        origins = [row["origin"] for row in client.design_rows(third.job("design").job_id)]
        back = client.lineage(kit_id=third.kit_id)
        forward = client.lineage(dataset="valley_bench@1")
        file = client.lineage(file="bench_7.csv")
    assert origins.count("dataset default.valley_bench@1") == 2
    assert f"kit {second}" in origins

    nodes = {node.id: node for node in back.nodes}
    named = {node.name for node in back.nodes}
    assert {"bench_7.csv", "default.valley_bench@1", "counted 1"} <= named
    optimum = next(node for node in back.nodes if node.job_id == third.job("optimize").job_id)
    reached, pending = set[str](), [optimum.id]
    while pending:
        one = pending.pop()
        pending += [edge.source_id for edge in back.edges if edge.target_id == one]
        reached.add(one)
    kinds = {nodes[one].kind for one in reached}
    assert len(kinds) >= 7
    raw = next(nodes[one] for one in reached if nodes[one].name == "bench_7.csv")
    assert raw.sha256 == hashlib.sha256(bench.read_bytes()).hexdigest()
    for traced in (forward, file):
        assert optimum.id in {node.id for node in traced.nodes}
    assert [node.name for node in file.nodes if node.start] == ["bench_7.csv"]
    tree = suite.cli("show", str(third.kit_id), "--lineage").stdout
    assert "dataset default.valley_bench@1" in tree
    listed = json.loads(suite.cli("dataset", "lineage", "valley_bench", "--json").stdout)
    assert len(listed["nodes"]) == len(forward.nodes)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("x,depth,width\n0.1,1,1\n", "points.csv:1 y: there is no such column"),
        ("x,y,depth,width\n0.1,7,1,1\n", "points.csv:2 y: 7.0 is outside its range"),
        ("x,y,depth,width\n0.1,0.2,nan,1\n", "points.csv:2 depth: `nan` is no finite number"),
        ("x,y,depth,width\n0.1,0.2,,1\n", "points.csv:2 depth: is empty"),
        ("x,y,depth,width\n", "has no points"),
    ],
)
def test_a_table_with_mistakes_is_not_imported(
    suite: Suite, folder: Path, rows: str, problem: str
) -> None:
    table = folder / "points.csv"
    table.write_text(rows)
    with vistaflow.connect(suite.address) as client:
        with pytest.raises(vistaflow.InvalidArgumentError) as refused:
            client.import_points("bad_points", table, folder / "deck")
        texts = [f"{one.field}: {one.description}" for one in refused.value.violations]
        assert any(problem in text for text in texts), texts
        assert not [one for one in client.datasets() if one.name == "bad_points"]


@pytest.mark.parametrize(
    ("reuse", "deck", "field", "problem"),
    [
        ("kit 999999", "deck", "8 reuse.kits[0]", "there is no kit 999999"),
        ("[kit FIRST]", "other", "8 reuse.kits[0]", "another version of the deck"),
        ("dataset nothing_here", "deck", "8 reuse.datasets[0]", "list them with"),
        ("everything", "deck", "8 reuse", "is none of `all`, `kit 31` and `dataset NAME`"),
        ("{only: true}", "deck", "8 reuse.only", "name some"),
    ],
)
def test_what_cannot_be_reused_is_refused_with_its_line(
    suite: Suite, folder: Path, first: int, reuse: str, deck: str, field: str, problem: str
) -> None:
    other = folder / "other"
    other.mkdir(exist_ok=True)
    (other / "run.py").write_text(RUN)
    (other / "deck.yaml").write_text(DECK.replace('version: "1"', 'version: "2"'))
    kit = folder / "reusing.yaml"
    text = KIT.replace("./deck", f"./{deck}") + f"reuse: {reuse}\n"
    kit.write_text(text.replace("FIRST", str(first)))
    with vistaflow.connect(suite.address) as client:
        answer = client.validate(kit)
    mistakes = {one.field.rpartition(":")[2]: one.description for one in answer.mistakes}
    assert problem in mistakes[field]


def test_what_the_document_says_of_known_points_works_as_written(
    suite: Suite, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "kit.md").read_text()
    fences = re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    script = ""
    for number, (language, code) in enumerate(fences):
        if language == "python":
            (tmp_path / f"{number}.py").write_text(code)
            code = f"python {number}.py\n"
        script += code
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=suite.env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best point, verified" in done.stdout
    assert "takes 2 points of dataset default.bench@1" in done.stdout
    assert "used by" in done.stdout
    assert re.search(r"dataset default\.bench@1 +kit \d+ +[0-9a-f]{12}", done.stdout)
