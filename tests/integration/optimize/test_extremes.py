"""Responses that never vary, hardly vary, or are too large to be one, through every stage."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench import Bench

from vistaflow.api.ml.v1 import ml_pb2
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.work.attempt import JobError
from vistaflow_services.decks.deck import Deck, Response, read_archive
from vistaflow_services.decks.space import Kind, Parameter, Space

BOWL = "(p['x'] - 0.3) ** 2 + (p['y'] - 0.6) ** 2"


def _deck(z: str, g: str, **fields: Any) -> Deck:
    source = f"def solve(p):\n    return {{'z': {z}, 'g': {g}}}\n"
    deck = Deck(
        name="extremes",
        simulator="devsim",
        entry="run.py:solve",
        files={"run.py": source.encode()},
        space=Space(
            parameters=(Parameter(name="x", low=0, high=1), Parameter(name="y", low=0, high=1))
        ),
        responses=(Response(name="z"), Response(name="g")),
        timeout_seconds=120,
        **fields,
    )
    return read_archive(deck.to_archive())


def _study(root: Path, z: str, g: str, goals: str, budget: int = 4) -> dict[str, Any]:
    """The result of a kit over a deck with these formulas, its models trained and tested."""
    bench = Bench(root)
    design = bench.design(bench.keep(_deck(z, g)), 16, 5)
    assert [each["name"] for each in design.result["plots"]] == ["design.png", "responses.png"]
    bench.scaled()
    bench.train(families=[ml_pb2.FAMILY_GAUSSIAN_PROCESS, ml_pb2.FAMILY_GRADIENT_BOOSTING])
    bench.tested()
    return bench.study(goals, budget=budget, seed=5, model="train", batch_size=2)


@pytest.mark.parametrize(
    "g",
    ["0.0", "5.0", "1e-300", "1.0 + 1e-15 * p['x']", "float(p['x'] > 0.95)", "1e-200 * p['x']"],
)
def test_a_constraint_that_hardly_varies_is_met_and_the_objective_optimised(
    tmp_path: Path, g: str
) -> None:
    told = _study(tmp_path, BOWL, g, "minimize z; g <= 5")
    assert told["best"]["feasible"]
    assert told["best"]["objective"] < 0.01
    assert [each["name"] for each in told["plots"]] == ["convergence.png", "predicted.png"]


def test_an_objective_over_parameters_is_optimised_where_no_response_varies(tmp_path: Path) -> None:
    told = _study(
        tmp_path,
        "0.0",
        "0.0",
        f"minimize {BOWL.replace('p[', '').replace(']', '')}".replace("'", "") + "; z <= 0; g <= 0",
    )
    assert told["best"]["objective"] < 0.01


def test_an_objective_that_never_varies_is_told(tmp_path: Path) -> None:
    told = _study(tmp_path, "-2.0", "p['x']", "minimize z; g <= 0.5", budget=2)
    assert told["best"]["feasible"]
    assert told["notes"] == [
        "`minimize z` is -2 at every point that ran: the points cannot be ranked"
    ]


@pytest.mark.parametrize("value", ["1e300", "1.7e308", "-1e300", "1e30 * (1 + p['y'])"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_runs_that_diverged_are_failures_that_name_response_trial_and_range(
    tmp_path: Path, value: str, direction: str
) -> None:
    bowl = BOWL if direction == "minimize" else f"-({BOWL})"
    z = f"{value} if p['x'] > 0.7 else {bowl}"
    told = _study(tmp_path, z, "p['y']", f"{direction} z; g >= 0.1")
    assert abs(told["best"]["objective"]) < 0.01
    assert told["evaluations"]["failed"] >= 4
    (note,) = [note for note in told["notes"] if "runs failed" not in note]
    assert "`z` is too large for a model in trial" in note
    assert "a range of the response in the deck" in note


def test_a_limit_whose_other_side_has_no_value_is_missed_and_no_fault(tmp_path: Path) -> None:
    told = _study(
        tmp_path, "p['x'] - 0.5", "p['y']", "minimize log10(z); g <= sqrt(z); 0 <= log(z)"
    )
    assert not told["best"]["feasible"]
    assert told["best"]["constraints"][1]["met"] is False


NOISY = "(p['x'] - 0.3) ** 2 + (p['y'] - 0.6) ** 2 + __import__('random').gauss(0, 0.05)"


@pytest.mark.parametrize("noisy", [True, False])
def test_the_store_does_not_verify_the_best_of_a_noisy_deck(tmp_path: Path, noisy: bool) -> None:
    bench = Bench(tmp_path)
    deck = _deck(NOISY, "p['x']", noisy=noisy)
    assert deck.noisy is noisy
    bench.design(bench.keep(deck), 16, 5)
    told = bench.study("minimize z", budget=4, seed=5, batch_size=2)
    rows = pq.read_table(bench.artifacts.path(told["trials"]["uri"])).to_pylist()
    verifying = [each for each in rows if each["origin"] == "verify"]
    assert len({each["y.z"] for each in verifying}) == len(verifying) >= 5
    assert not any(each["cached"] for each in verifying)
    best = told["best"]
    runs = [each["y.z"] for each in verifying if each["x.x"] == best["point"]["x"]]
    assert best["run_count"] == len(runs)
    assert best["objective"] == pytest.approx(sum(runs) / len(runs))
    assert 0.01 < best["noise"]["z"] < 0.15
    (note,) = told["notes"]
    assert "the simulator is noisy: runs of one point vary, `z` by" in note
    assert ("declare `noisy: true`" in note) is not noisy


@pytest.mark.parametrize(
    ("high", "choices"), [(3, ("a", "b", "c")), (2, ("a", "b")), (1, ("a", "b"))]
)
def test_a_space_of_few_points_is_run_whole_and_its_best_is_known(
    tmp_path: Path, high: int, choices: tuple[str, ...]
) -> None:
    bench = Bench(tmp_path)
    source = (
        "def solve(p):\n    return {'z': p['i'] * {'a': 1.0, 'b': 2.5, 'c': 0.7}[p['c']], 'g': 1}"
    )
    deck = replace(
        _deck("0", "0"),
        files={"run.py": source.encode()},
        space=Space(
            parameters=(
                Parameter(name="i", kind=Kind.INTEGER, low=0, high=high),
                Parameter(name="c", kind=Kind.CATEGORICAL, choices=choices),
            )
        ),
    )
    bench.design(bench.keep(read_archive(deck.to_archive())), 30, 2)
    bench.scaled()
    bench.train(families=[ml_pb2.FAMILY_GAUSSIAN_PROCESS, ml_pb2.FAMILY_EXTRA_TREES])
    bench.tested()
    told = bench.study("maximize z", budget=6, seed=5, batch_size=2, model="train")
    assert told["best"]["objective"] == 2.5 * high
    assert told["stop_reason"] == "exhausted"
    assert told["evaluations"]["infill"] == 0
    assert told["last_model"]["training_rows"] == (high + 1) * len(choices)


def test_an_objective_without_a_value_anywhere_is_refused_with_its_formula(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.design(bench.keep(_deck("-1.0", "p['x']")), 8, 5)
    with pytest.raises(JobError, match=r"`minimize log\(z\)` has no value at any point that ran"):
        bench.study("minimize log(z)", budget=2, seed=5)


def test_a_design_with_too_few_usable_rows_names_the_values_that_spoil_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.design(bench.keep(_deck("1e300 if p['x'] > 0.4 else p['x']", "p['y']")), 14, 5)
    with pytest.raises(InvalidError, match=r"`z` is too large for a model in row .* `range: "):
        bench.scaled()


@pytest.mark.parametrize(
    "z",
    [
        f"1e300 if p['x'] > 0.2 else {BOWL}",
        f"-1.7e308 if p['x'] > 0.9 else 1e300 * ({BOWL} - 1)",
        f"1e-15 * ({BOWL} + 1)",
    ],
)
def test_responses_of_any_magnitude_are_optimised(tmp_path: Path, z: str) -> None:
    told = _study(tmp_path, z, "p['y']", "minimize z; g <= 2 * z + 1e308; z >= -1e308")
    assert told["best"]["feasible"]
