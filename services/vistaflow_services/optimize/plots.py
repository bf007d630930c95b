"""Pictures of a study: how it converged, and whether its surrogate could be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vistaflow_services.optimize.domain import Problem, Trial

FEASIBLE = "#2a7f62"
MISSED = "#c97b2d"
FAILED = "#b23a48"
BEST = "#1f3a5f"

MAX_RESPONSES = 12
"""Most responses that are compared in one picture."""

WIDE = 10.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


def plot_convergence(problem: Problem, trials: Sequence[Trial]) -> Figure:
    """The best feasible objective against evaluations, the design's part shaded.

    Below it, for each constraint, which points met it.
    """
    constraints = problem.goals.constraints
    shown = [trial for trial in trials if trial.origin != "verify"]
    design_count = sum(trial.origin == "doe" for trial in shown)
    height = 3.6 + 0.32 * len(constraints)
    figure = Figure(figsize=(8.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    if constraints:
        upper, lower = figure.subplots(
            2, 1, sharex=True, height_ratios=[3.2, 0.32 * len(constraints) + 0.2]
        )
    else:
        upper, lower = figure.subplots(1, 1), None
    _objective(upper, problem, shown)
    for axes in filter(None, (upper, lower)):
        axes.axvspan(0.5, design_count + 0.5, color="#e8e8ee", zorder=0)
    if lower is not None:
        _constraints(lower, [str(constraint) for constraint in constraints], shown)
    if design_count:
        upper.annotate(
            "design",
            (design_count / 2 + 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=9,
            color="#666677",
        )
    bottom = lower if lower is not None else upper
    bottom.set_xlabel("evaluation")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.set_xlim(0.5, max(len(shown), 1) + 0.5)
    return figure


def _objective(axes: Any, problem: Problem, trials: Sequence[Trial]) -> None:
    numbers = np.arange(1, len(trials) + 1)
    values = np.array(
        [trial.assessment.objective if trial.assessment else math.nan for trial in trials]
    )
    feasible = np.array([trial.feasible for trial in trials], dtype=np.bool_)
    missed = np.isfinite(values) & ~feasible
    axes.plot(
        numbers[missed],
        values[missed],
        "o",
        ms=3.5,
        mfc="none",
        color=MISSED,
        label="misses a constraint",
    )
    axes.plot(numbers[feasible], values[feasible], "o", ms=3.5, color=FEASIBLE, label="feasible")
    best = best_so_far(values, feasible, problem.objective.sign)
    if np.isfinite(best).any():
        axes.step(numbers, best, where="post", color=BEST, lw=1.8, label="best feasible so far")
    failed = ~np.isfinite(values)
    if failed.any():
        axes.plot(
            numbers[failed],
            np.full(failed.sum(), 0.02),
            "x",
            ms=5,
            color=FAILED,
            transform=axes.get_xaxis_transform(),
            label="failed",
        )
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > WIDE * finite.min():
        axes.set_yscale("log")
    if np.isfinite(best).any():
        axes.set_title(f"best feasible {best[-1]:.6g}", loc="right", fontsize=9, color=BEST)
    axes.set_ylabel(f"{problem.objective}", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best", framealpha=0.9)


def best_so_far(
    values: NDArray[np.float64], feasible: NDArray[np.bool_], sign: float
) -> NDArray[np.float64]:
    """The best feasible value up to each place (n,); not a number before the first.

    Args:
        values: Objectives in order (n,).
        feasible: Which of them count (n,).
        sign: +1 to minimise, -1 to maximise.
    """
    counted = np.where(feasible, sign * values, np.inf)
    best = np.minimum.accumulate(counted) if len(counted) else counted
    return np.where(np.isfinite(best), sign * best, np.nan)


def _constraints(axes: Any, texts: Sequence[str], trials: Sequence[Trial]) -> None:
    for row in range(len(texts)):
        for met, colour in ((True, FEASIBLE), (False, MISSED)):
            numbers = [
                number
                for number, trial in enumerate(trials, start=1)
                if trial.assessment and trial.assessment.constraints[row].met is met
            ]
            axes.plot(numbers, [row] * len(numbers), "|", ms=8, mew=1.6, color=colour)
        numbers = [
            number for number, trial in enumerate(trials, start=1) if trial.assessment is None
        ]
        axes.plot(numbers, [row] * len(numbers), "x", ms=4, color=FAILED)
    labels = [text if len(text) <= 28 else text[:27] + "…" for text in texts]
    axes.set_yticks(range(len(texts)), labels, fontsize=8)
    axes.set_ylim(len(texts) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def plot_comparison(
    trials: Sequence[Trial], responses: Sequence[str], units: dict[str, str]
) -> Figure:
    """What was predicted before each proposed run against what the simulator returned."""
    names = list(responses)[:MAX_RESPONSES]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.3 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, axes in enumerate(np.atleast_1d(figure.subplots(rows, columns)).ravel()):
        if index >= len(names):
            axes.set_axis_off()
            continue
        name = names[index]
        pairs = [
            (trial.responses[name], *trial.predicted[name])
            for trial in trials
            if trial.origin == "infill" and trial.responses and name in trial.predicted
        ]
        plot_parity(axes, np.array(pairs).reshape(-1, 3))
        unit = f" [{units[name]}]" if units.get(name) else ""
        axes.set_title(name + unit, fontsize=9)
        axes.set_xlabel("simulated", fontsize=8)
        axes.set_ylabel("predicted", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def plot_parity(axes: Any, pairs: NDArray[np.float64]) -> None:
    """One response in one frame.

    Args:
        axes: Where to draw.
        pairs: Simulated value, predicted mean and its standard deviation (n, 3).
    """
    if not len(pairs):
        axes.annotate("nothing predicted", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    simulated, mean, sd = pairs.T
    # Every point lies inside, however wrong its prediction; bars may run out of the picture.
    low, high = float(pairs[:, :2].min()), float(pairs[:, :2].max())
    least = float(simulated.min())
    if least > 0 and simulated.max() > WIDE * least:
        # Linear below the smallest value that was simulated: predictions may be negative.
        axes.set_xscale("symlog", linthresh=least)
        axes.set_yscale("symlog", linthresh=least)
        span = (low / 1.5 if low > 0 else 1.5 * low - least, high * 1.5)
    else:
        margin = 0.08 * (high - low) or 0.08 * max(abs(high), 1e-12)
        span = (low - margin, high + margin)
    axes.errorbar(
        simulated, mean, yerr=1.96 * sd, fmt="o", ms=3.5, color=BEST, ecolor="#9db2cc", lw=0.8
    )
    axes.plot(span, span, "-", lw=0.9, color="#888888")
    axes.set_xlim(span)
    axes.set_ylim(span)
    axes.grid(alpha=0.25)
