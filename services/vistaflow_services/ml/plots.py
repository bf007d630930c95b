"""Pictures of a model on the rows held out: parity, residuals, calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vistaflow_services.ml.domain import ResponseTest
from vistaflow_services.surrogates.surrogate import Floats

MAX_PANELS = 16
"""Responses drawn; more would be unreadable."""

_INK, _BAND, _LINE = "#1f5fa8", "#9dbfe3", "#b03a2e"
_MAX_BARS = 300


def draw_parity(tests: Sequence[ResponseTest]) -> Figure:
    """Predicted against simulated, with 95 % intervals, a panel a response."""
    return _grid(tests, _parity, "Predicted against simulated, rows held out")


def draw_residuals(tests: Sequence[ResponseTest]) -> Figure:
    """Errors in predicted deviations against the prediction, a panel a response."""
    return _grid(tests, _residuals, "Errors in units of the predicted deviation, rows held out")


def draw_calibration(tests: Sequence[ResponseTest]) -> Figure:
    """How many rows the intervals of each level hold, a panel a response."""
    return _grid(tests, _calibration, "Calibration of the predicted intervals, rows held out")


def _grid(
    tests: Sequence[ResponseTest],
    draw: Callable[[Any, ResponseTest], None],
    title: str,
) -> Figure:
    shown = list(tests)[:MAX_PANELS]
    columns = min(len(shown), 2 if len(shown) <= 4 else 3 if len(shown) <= 9 else 4)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.2 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    more = (
        f" ({len(tests) - len(shown)} more responses not shown)" if len(tests) > MAX_PANELS else ""
    )
    figure.suptitle(title + more, fontsize=12)
    for index, test in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.grid(visible=True, color="#e3e3e3", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        draw(axes, test)
    return figure


def _is_log(test: ResponseTest) -> bool:
    return test.figures.rmse_decades is not None


def _label(what: str, test: ResponseTest) -> str:
    return f"{what} [{test.unit}]" if test.unit else what


def _parity(axes: Any, test: ResponseTest) -> None:
    truth, guess = test.truth, test.predicted.median
    span = np.array([truth.min(), truth.max()])
    if _is_log(test):
        axes.set_xscale("log")
        axes.set_yscale("log")
        margin = np.array([0.8, 1.25])
        low, high = span * margin
    else:
        room = 0.06 * (np.ptp(span) or abs(span[0]) or 1.0)
        low, high = span + np.array([-room, room])
    bars = len(truth) <= _MAX_BARS
    if bars:
        axes.errorbar(
            truth,
            guess,
            yerr=np.abs(np.stack([guess - test.predicted.low95, test.predicted.high95 - guess])),
            fmt="none",
            ecolor=_BAND,
            elinewidth=1.0,
            zorder=2,
        )
    axes.scatter(truth, guess, s=14, color=_INK, linewidths=0, zorder=3)
    axes.plot([low, high], [low, high], color=_LINE, linewidth=1.0, zorder=1)
    axes.set_xlim(low, high)
    inside = guess[(guess >= low) & (guess <= high)]
    if len(inside) == len(guess):
        axes.set_ylim(low, high)
    axes.set_xlabel(_label("simulated", test), fontsize=9)
    axes.set_ylabel(_label("predicted, 95 % interval" if bars else "predicted", test), fontsize=9)
    figures = test.figures
    error = (
        f"RMSE {figures.rmse_decades.value:.3g} decades"
        if figures.rmse_decades
        else f"RMSE {figures.rmse.value:.3g} {test.unit}".rstrip()
    )
    axes.set_title(f"{test.name}\nR² {figures.r2.value:.4f}, {error}", fontsize=10)


def _standardised(test: ResponseTest) -> Floats:
    """Errors divided by the predicted deviation, on the modelled scale."""
    predicted = test.predicted
    truth, guess, low, high = test.truth, predicted.median, predicted.low95, predicted.high95
    if _is_log(test):
        truth, guess, low, high = (np.log10(values) for values in (truth, guess, low, high))
    return np.asarray((truth - guess) / np.maximum((high - low) / 3.92, 1e-300))


def _residuals(axes: Any, test: ResponseTest) -> None:
    z = _standardised(test)
    if _is_log(test):
        axes.set_xscale("log")
    axes.axhspan(-1.96, 1.96, color=_BAND, alpha=0.35, linewidth=0)
    axes.axhline(0.0, color=_LINE, linewidth=1.0)
    axes.scatter(test.predicted.median, z, s=14, color=_INK, linewidths=0)
    reach = max(3.5, 1.1 * float(np.abs(z).max()))
    axes.set_ylim(-reach, reach)
    axes.set_xlabel(_label("predicted", test), fontsize=9)
    axes.set_ylabel("(simulated - predicted) / deviation", fontsize=9)
    held = test.figures.coverage95.value
    axes.set_title(f"{test.name}\n{held:.0%} of {len(z)} rows in the 95 % band", fontsize=10)


def _calibration(axes: Any, test: ResponseTest) -> None:
    levels = list(test.figures.calibration)
    seen = list(test.figures.calibration.values())
    half = 1.96 * np.sqrt(np.asarray(levels) * (1 - np.asarray(levels)) / test.figures.rows)
    axes.fill_between(levels, levels - half, levels + half, color=_BAND, alpha=0.35, linewidth=0)
    axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1.0)
    axes.plot(levels, seen, color=_INK, marker="o", markersize=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("level of the interval", fontsize=9)
    axes.set_ylabel("part of the rows within it", fontsize=9)
    axes.set_title(f"{test.name}\nshaded: what chance alone allows", fontsize=10)
