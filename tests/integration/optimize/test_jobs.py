"""OPTIMIZE jobs on real simulators, each attempt with a real artifact store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.optimize import differential_evolution

sys.path.insert(0, str(Path(__file__).parent))
from bench import WELDED_BEAM, Bench

from vistaflow.api.ml.v1 import ml_pb2
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.work.attempt import MAX_RESULT_BYTES, JobError
from vistaflow_services.decks.deck import Deck, FailurePolicy, Policy, Response, read_archive
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.designs.journal import read_journal
from vistaflow_services.optimize.study import Study
from vistaflow_services.surrogates.choice import check_hyper_parameters
from vistaflow_services.surrogates.model import Model

BEAM_OPTIMUM = 1.724852
SEEDS = range(5)

BOREHOLE = [
    (0.05, 0.15), (100, 50000), (63070, 115600), (990, 1110), (63.1, 116), (700, 820),
    (1120, 1680), (9855, 12045),
]  # fmt: skip
BOREHOLE_GOALS = """
minimize 100 * rw + 0.01 * (hu - 990) + 0.02 * (820 - hl) + 0.001 * (kw - 9855)
flow >= 120
rw * l <= 150
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("store"))


def _flow(x: np.ndarray) -> float:
    rw, r, tu, hu, tl, hl, length, kw = x
    log = np.log(r / rw)
    inner = 1 + 2 * length * tu / (log * rw**2 * kw) + tu / tl
    return float(2 * np.pi * tu * (hu - hl) / (log * inner))


def _cost(x: np.ndarray) -> float:
    return float(100 * x[0] + 0.01 * (x[3] - 990) + 0.02 * (820 - x[5]) + 0.001 * (x[7] - 9855))


def _borehole_optimum() -> float:
    def penalised(x: np.ndarray) -> float:
        missed = max(0.0, 120 - _flow(x)) + max(0.0, x[0] * x[6] - 150)
        return _cost(x) + 10 * missed

    found = differential_evolution(penalised, BOREHOLE, seed=0, maxiter=2000, tol=1e-10, popsize=20)
    return float(found.fun)


def test_the_welded_beam_comes_within_a_percent_of_its_optimum_in_60_runs(bench: Bench) -> None:
    excess = []
    for seed in SEEDS:
        bench.design("welded_beam", 24, seed)
        told = bench.study(WELDED_BEAM, budget=36, seed=seed, batch_size=2)
        assert told["evaluations"]["total"] == 60
        best = told["best"]
        assert best["verified"]
        excess.append(best["objective"] / BEAM_OPTIMUM - 1 if best["feasible"] else np.inf)
    assert min(excess) > -1e-6
    assert np.median(excess) <= 0.01


def test_a_borehole_under_a_flow_it_must_give_comes_within_a_percent_in_120_runs(
    bench: Bench,
) -> None:
    optimum = _borehole_optimum()
    excess = []
    for seed in SEEDS:
        bench.design("borehole", 80, seed)
        told = bench.study(BOREHOLE_GOALS, budget=40, seed=seed, batch_size=2)
        assert told["evaluations"]["total"] == 120
        best = told["best"]
        excess.append(best["objective"] / optimum - 1 if best["feasible"] else np.inf)
    assert min(excess) > -1e-4
    assert np.median(excess) <= 0.01


def test_the_result_tells_all_there_is_to_know_of_the_best_point(bench: Bench) -> None:
    bench.design("welded_beam", 20, 1)
    bench.reports.clear()
    told = bench.study(WELDED_BEAM, budget=8, seed=1, batch_size=2)
    last = told["last_model"]
    assert (last["training_rows"], set(last["families"])) == (28, set(told["best"]["simulated"]))
    best, before = told["best"], told["doe_best"]
    assert set(best["point"]) == {"h", "l", "t", "b"}
    assert set(best["predicted"]) == set(best["simulated"]) == {
        "cost", "tau", "sigma", "deflection", "pc"
    }  # fmt: skip
    assert [each["text"] for each in best["constraints"]] == WELDED_BEAM.split("; ")[1:]
    assert best["objective"] == best["simulated"]["cost"]
    assert best["feasible"] == all(each["met"] for each in best["constraints"])
    if before["feasible"]:
        gained = 1 - best["objective"] / before["objective"]
        assert told["improvement"] == pytest.approx(gained)
    assert told["evaluations"] | {"simulated": 0, "cached": 0, "feasible": 0} == {
        "total": 28, "design": 20, "infill": 8, "simulated": 0, "cached": 0, "failed": 0,
        "feasible": 0,
    }  # fmt: skip
    assert [each["name"] for each in told["plots"]] == ["convergence.png", "predicted.png"]
    for each in (told["trials"], *told["plots"]):
        bench.artifacts.verified(each["uri"], each["sha256"])
    assert len(json.dumps(told)) < MAX_RESULT_BYTES
    progress = [each for each in bench.reports if each["kind"] == "progress"]
    assert {each["phase"] for each in progress} == {"infill"}
    assert (progress[-1]["completed"], progress[-1]["total"]) == (8, 8)
    tasks = [(each["name"], each["status"]) for each in bench.reports if each["kind"] == "task"]
    assert tasks == [
        ("infill", "RUNNING"), ("infill", "FINISHED"), ("report", "RUNNING"), ("report", "FINISHED")
    ]  # fmt: skip


def test_the_trials_are_the_design_the_proposals_and_the_verification(bench: Bench) -> None:
    design = bench.design("branin", 12, 2)
    told = bench.study("minimize y", budget=6)
    rows = pq.read_table(bench.artifacts.path(told["trials"]["uri"])).to_pylist()
    assert [each["origin"] for each in rows] == ["doe"] * 12 + ["infill"] * 6 + ["verify"]
    assert [each["number"] for each in rows] == list(range(19))
    assert rows[-1]["cached"]
    source = pq.read_table(bench.artifacts.path(design.result["design"]["uri"])).to_pylist()
    for row, made in zip(rows, source, strict=False):
        assert {name: row[name] for name in row if name[:2] in ("x.", "y.")} == {
            name: made[name] for name in made if name[:2] in ("x.", "y.")
        }


class Killed(BaseException):
    """Stands for the end of the process in the middle of a study."""


def test_an_attempt_that_follows_a_crash_ends_with_the_same_best_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = Bench(tmp_path / "whole"), Bench(tmp_path / "broken")
    expected = None
    for each in (whole, broken):
        each.design("welded_beam", 20, 3)
    expected = whole.study(WELDED_BEAM, budget=10, seed=3, batch_size=2)

    original = Study.message
    rounds = []

    def message(study: Study) -> str:
        rounds.append(1)
        if len(rounds) == 4:
            raise Killed
        return original(study)

    with monkeypatch.context() as patched:
        patched.setattr(Study, "message", message)
        with pytest.raises(Killed):
            broken.study(WELDED_BEAM, budget=10, seed=3, batch_size=2)
    again = broken.study(WELDED_BEAM, budget=10, seed=3, batch_size=2)
    assert again["evaluations"]["cached"] == 6
    assert again["evaluations"]["simulated"] == 4
    for name in ("best", "doe_best", "stop_reason"):
        assert again[name] == expected[name]


FRAIL = """
def solve(p):
    if p["x"] > {limit}:
        raise RuntimeError("the mesh is inverted")
    return {{"loss": (p["x"] - 0.7) ** 2 + (p["y"] - 0.4) ** 2}}
"""


def _frail_deck(limit: float, **policy: Any) -> Deck:
    """A Python deck that crashes above x = `limit`, as it comes from its archive."""
    deck = Deck(
        name="frail",
        simulator="devsim",
        entry="frail.py:solve",
        files={"frail.py": FRAIL.format(limit=limit).encode()},
        space=Space(
            parameters=(Parameter(name="x", low=0, high=1), Parameter(name="y", low=0, high=1))
        ),
        responses=(Response(name="loss"),),
        failure_policy=FailurePolicy(**policy),
        timeout_seconds=120,
    )
    return read_archive(deck.to_archive())


@pytest.mark.parametrize("policy", [Policy.CONTINUE, Policy.SUBSTITUTE])
def test_failed_runs_are_data_of_which_the_search_learns(tmp_path: Path, policy: Policy) -> None:
    bench = Bench(tmp_path)
    substitute = {"loss": -5.0} if policy is Policy.SUBSTITUTE else {}
    deck = _frail_deck(0.6, policy=policy, max_failed_fraction=0.9, substitute=substitute)
    bench.design(bench.keep(deck), 8, 5)
    told = bench.study("minimize loss", budget=8, seed=5)
    assert told["evaluations"]["failed"] >= 2
    assert told["best"]["point"]["x"] <= 0.6
    assert 0.01 <= told["best"]["objective"] < 0.02
    rows = pq.read_table(bench.artifacts.path(told["trials"]["uri"])).to_pylist()
    failed = [each for each in rows if each["x.x"] > 0.6]
    assert all(each["failure"] and each["objective"] is None for each in failed)


def test_with_nothing_feasible_the_study_ends_honestly_and_names_what_blocks(
    bench: Bench,
) -> None:
    bench.design("welded_beam", 16, 4)
    told = bench.study("minimize cost; cost <= 0.001; tau <= 1e9", budget=4, seed=4)
    assert not told["best"]["feasible"]
    assert told["improvement"] is None
    miss = told["best"]["objective"] - 0.001
    assert told["best"]["constraints"][0]["miss"] == pytest.approx(miss)
    assert told["blocking"] == [
        f"`cost <= 0.001` is missed by 20 of 20 points, by {miss:.4g} USD or more"
    ]


@pytest.mark.parametrize("limit", ["tau - 500 <= 0", "tau <= 500", "tau / 500 <= 1"])
def test_the_nearest_miss_is_the_same_however_a_limit_is_written(bench: Bench, limit: str) -> None:
    bench.design("welded_beam", 16, 4)
    told = bench.study(f"minimize cost; {limit}", budget=4, seed=4)
    rows = pq.read_table(bench.artifacts.path(told["trials"]["uri"])).to_pylist()
    assert not told["best"]["feasible"]
    assert told["best"]["simulated"]["tau"] == min(each["y.tau"] for each in rows)
    assert told["best"]["constraints"][0]["unit"] == ("" if "/" in limit else "psi")


def test_held_parameters_keep_their_values_in_every_proposal(bench: Bench) -> None:
    bench.design("welded_beam", 12, 6, parameters=[{"name": "l", "fixed": 3.5}])
    told = bench.study(WELDED_BEAM, budget=6, seed=6)
    rows = pq.read_table(bench.artifacts.path(told["trials"]["uri"])).to_pylist()
    assert {each["x.l"] for each in rows} == {3.5}
    assert all(each["x.h"] <= each["x.b"] for each in rows)


def test_a_trained_model_proposes_the_first_point_and_is_compared_at_the_best(
    bench: Bench,
) -> None:
    bench.design("borehole", 60, 7)
    bench.scaled()
    bench.train(families=[ml_pb2.FAMILY_GAUSSIAN_PROCESS])
    told = bench.study("maximize flow; rw * l <= 112", budget=3, seed=7, model="train")
    rows = pq.read_table(bench.artifacts.path(told["trials"]["uri"])).to_pylist()
    first = next(each for each in rows if each["origin"] == "infill")
    assert first["objective"] > told["doe_best"]["objective"]
    last = told["last_model"]
    assert last["training_rows"] == 63
    model = Model.load(bench.artifacts.path(last["model"]["uri"]), last["model"]["sha256"])
    mean, sd = model.predict([told["best"]["point"]])["flow"]
    assert mean[0] == pytest.approx(told["best"]["simulated"]["flow"], rel=1e-3)
    assert sd[0] < 0.01 * mean[0]
    said = told["best"]["model_predicted"]["flow"]
    assert said["mean"] == pytest.approx(told["best"]["simulated"]["flow"], rel=0.1)


@pytest.mark.parametrize(
    ("spec", "error", "told"),
    [
        ({"goals": "minimize cots"}, InvalidError, "did you mean `cost`"),
        ({"goals": "minimize cost; tau <= 1; tau >= 2"}, InvalidError, "contradict"),
        ({"goals": "minimize cost", "budget": -1}, InvalidError, "give 1 to 100000"),
        ({"goals": "minimize cost", "design": "nowhere"}, JobError, "no design `nowhere`"),
        ({"goals": "minimize cost", "model": "doe"}, JobError, "`doe` made no model"),
        ({"goals": "minimize cost; h >= b + 1"}, JobError, "no point of the space"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    bench: Bench, spec: dict[str, Any], error: type[Exception], told: str
) -> None:
    bench.design("welded_beam", 12, 8)
    with pytest.raises(error, match=told):
        bench.study(**{"budget": 4, **spec})


def test_a_design_that_was_never_run_is_refused(bench: Bench) -> None:
    design = bench.design("branin", 12, 9)
    unrun = {**design.result, "evaluated_count": 0}
    bench.inputs["doe"] = type(design)(
        job_id=design.job_id, job_type="DOE", attempt=1, result=unrun
    )
    with pytest.raises(JobError, match="never run"):
        bench.study("minimize y", budget=4)


def test_an_altered_design_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    design = bench.design("branin", 12, 9)
    rows = bench.artifacts.path(design.result["design"]["uri"])
    pq.write_table(pq.read_table(rows).slice(1), rows)
    with pytest.raises(JobError, match="altered or damaged"):
        bench.study("minimize y", budget=4)


def test_a_design_of_another_kit_is_found_by_its_id(bench: Bench) -> None:
    design = bench.design("welded_beam", 12, 10)
    bench.inputs.pop("doe")
    told = bench.study(WELDED_BEAM, budget=2, design=design.job_id)
    assert told["evaluations"]["design"] == 12


def test_tuning_finds_hyper_parameters_that_training_accepts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.design("branin", 40, 1)
    bench.scaled()
    told = bench.tuned(family=ml_pb2.FAMILY_POLYNOMIAL_RIDGE, trial_count=8, folds=3)
    assert told["best"]["rmse"] <= told["default"]["rmse"]
    rows = pq.read_table(bench.artifacts.path(told["trials"]["uri"])).to_pylist()
    assert [each["origin"] for each in rows] == ["default"] + ["tuned"] * 7
    checked = check_hyper_parameters(told["hyperparameters"])
    trained = bench.train(
        families=[ml_pb2.FAMILY_POLYNOMIAL_RIDGE], hyperparameters=_struct(checked)
    )
    assert trained.result["hyperparameters"] == checked


def _struct(values: dict[str, Any]) -> Any:
    from google.protobuf import struct_pb2

    made = struct_pb2.Struct()
    made.update(values)
    return made


def test_tuning_for_an_unknown_response_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.design("welded_beam", 30, 1)
    bench.scaled()
    with pytest.raises(InvalidError, match="did you mean `cost`"):
        bench.tuned(family=ml_pb2.FAMILY_EXTRA_TREES, response="cots")


def test_scratch_folders_are_gone_when_a_study_has_ended(bench: Bench) -> None:
    bench.design("branin", 8, 1)
    bench.study("minimize y", budget=2)
    assert [path for path in bench.artifacts.root.rglob(".scratch") if path.exists()] == []


def test_what_a_study_tried_is_readable_at_each_word_of_progress(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.design("branin", 8, 1)
    folder = bench.artifacts.root / "jobs"
    earlier = set(folder.iterdir())
    seen: list[tuple[int, list[dict[str, Any]]]] = []

    class Watching(list[dict[str, Any]]):
        def append(self, report: dict[str, Any]) -> None:
            if report["kind"] == "progress" and report["phase"] == "infill":
                (job,) = set(folder.iterdir()) - earlier
                rows = list(read_journal(job))
                seen.append((report["completed"], rows))

    monkeypatch.setattr(bench, "reports", Watching())
    study = bench.study("minimize y", budget=4, batch_size=1, seed=3)
    assert seen
    for completed, rows in seen:
        assert [row["number"] for row in rows] == list(range(8 + completed))
    assert seen[-1][0] == 4
    # What was shown is what was published, which takes the place of it.
    published = pq.read_table(bench.artifacts.path(study["trials"]["uri"])).to_pylist()
    assert seen[-1][1] == published[:12]
    (job,) = set(folder.iterdir()) - earlier
    assert list(job.glob("*/running.arrow")) == []
