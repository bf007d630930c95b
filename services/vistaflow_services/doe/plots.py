"""Pictures of a design: where its points lie, and how the responses follow the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from vistaflow_services.decks.space import Columns, Kind, Parameter, Scale
from vistaflow_services.doe.domain import Region
from vistaflow_services.doe.table import Results

MOST_PARAMETERS = 6
MOST_RESPONSES = 6
MOST_POINTS = 5000
"""More points are thinned evenly: a picture of a million dots shows no more."""

_DOTS = "viridis"
_POINT = "#33658a"
_TREND = "#d1495b"
_FAILED = "#d1495b"


@dataclass(frozen=True)
class _Axis:
    """One parameter or response as numbers to draw."""

    label: str
    values: NDArray[np.float64]
    log: bool
    whole: bool = False
    ticks: Sequence[str] = ()
    """Names of the places 0, 1, 2, … where the values are choices."""


def plot_design(
    path: Path, region: Region, columns: Columns, results: Results, *, units: dict[str, str]
) -> None:
    """Pair scatter of up to 6 parameters, coloured by the first response if there is one.

    Failed runs are red crosses. Of more than 6 parameters those that move the
    response most are shown.
    """
    rows = _thinned(len(results.seconds))
    name, response = _first_response(results, units)
    shown = _most_moving(region, columns, response)
    axes = [_parameter_axis(each, columns[each.name]) for each in shown]
    count = len(axes)
    figure = Figure(figsize=(2.0 * count + 1.4, 2.0 * count + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(count, count, squeeze=False)
    failed = results.failed[rows]
    good = ~failed
    mappable = None
    for row, down in enumerate(axes):
        for column, across in enumerate(axes):
            place = grid[row][column]
            if column > row:
                place.set_visible(False)
                continue
            if column == row:
                _histogram(place, across, rows)
            else:
                x, y = _apart(across, rows, turn=0), _apart(down, rows, turn=1)
                colours = {"color": _POINT} if response is None else _colours(response, rows, good)
                drawn = place.scatter(x[good], y[good], s=14, linewidths=0, **colours)
                mappable = drawn if response is not None else None
                place.scatter(x[failed], y[failed], s=26, marker="x", color=_FAILED, linewidths=1)
                _scale(place.yaxis, down)
            _scale(place.xaxis, across)
            _label(place, across, down, row=row, column=column, last=count - 1)
    if mappable is not None:
        figure.colorbar(mappable, ax=grid, shrink=0.6, aspect=30, label=name)
    figure.suptitle(_title(len(results.seconds), len(rows), int(results.failed.sum())), fontsize=11)
    _save(figure, path)


def plot_responses(
    path: Path, region: Region, columns: Columns, results: Results, *, units: dict[str, str]
) -> None:
    """Each response against each parameter, with the median along the range: the main effects."""
    rows = _thinned(len(results.seconds))
    names = [name for name, values in results.responses.items() if np.isfinite(values).any()]
    names = names[:MOST_RESPONSES]
    first = results.responses[names[0]] if names else None
    shown = _most_moving(region, columns, first)
    across = [_parameter_axis(each, columns[each.name]) for each in shown]
    down = [_response_axis(name, results.responses[name], units.get(name, "")) for name in names]
    figure = Figure(figsize=(2.2 * len(across) + 1.0, 1.9 * len(down) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(down), len(across), squeeze=False, sharey="row")
    for row, response in enumerate(down):
        for column, parameter in enumerate(across):
            place = grid[row][column]
            place.scatter(
                _apart(parameter, rows, turn=0),
                response.values[rows],
                s=9,
                linewidths=0,
                color=_POINT,
            )
            place.plot(*_medians(parameter, response), color=_TREND, linewidth=1.6)
            _scale(place.xaxis, parameter)
            _scale(place.yaxis, response)
            _label(place, parameter, response, row=row, column=column, last=len(down) - 1)
    figure.suptitle("Responses along each parameter, with the running median", fontsize=11)
    _save(figure, path)


def _thinned(count: int) -> NDArray[np.intp]:
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.linspace(0, count - 1, MOST_POINTS).astype(np.intp)


def _first_response(
    results: Results, units: dict[str, str]
) -> tuple[str, NDArray[np.float64] | None]:
    """The first response that has a value, its values as they are best coloured, its label."""
    for name, values in results.responses.items():
        if np.isfinite(values).any():
            axis = _response_axis(name, values, units.get(name, ""))
            if not axis.log:
                return axis.label, values
            return f"log10 {axis.label}", np.log10(values)
    return "", None


def _most_moving(
    region: Region, columns: Columns, response: NDArray[np.float64] | None
) -> list[Parameter]:
    """Up to 6 parameters, in their order: those whose ranks correlate most with the response."""
    if len(region.free) <= MOST_PARAMETERS:
        return list(region.free)
    if response is None or np.isfinite(response).sum() < 3:
        return list(region.free[:MOST_PARAMETERS])
    known = np.isfinite(response)
    ranks = rankdata(response[known])
    moves = []
    for each in region.free:
        places = rankdata(each.encode(columns[each.name])[known])
        flat = np.ptp(places) == 0 or np.ptp(ranks) == 0
        moves.append(0.0 if flat else abs(float(np.corrcoef(places, ranks)[0, 1])))
    best = sorted(np.argsort(moves, kind="stable")[-MOST_PARAMETERS:].tolist())
    return [region.free[at] for at in best]


def _parameter_axis(parameter: Parameter, values: NDArray[Any]) -> _Axis:
    label = f"{parameter.name} [{parameter.unit}]" if parameter.unit else parameter.name
    if parameter.choices:
        return _Axis(
            label,
            parameter.positions(values).astype(np.float64),
            log=False,
            ticks=[str(each) for each in parameter.choices],
        )
    return _Axis(
        label,
        values.astype(np.float64),
        log=parameter.scale is Scale.LOG,
        whole=parameter.kind is Kind.INTEGER,
    )


def _response_axis(name: str, values: NDArray[np.float64], unit: str) -> _Axis:
    """Logarithmic where all values are positive and span three decades or more."""
    known = values[np.isfinite(values)]
    log = bool(len(known) and known.min() > 0 and known.max() / known.min() >= 1000)
    return _Axis(f"{name} [{unit}]" if unit else name, values, log=log)


def _medians(parameter: _Axis, response: _Axis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Medians of the response over up to 8 equal parts of the points along the parameter."""
    known = np.isfinite(response.values)
    x, y = parameter.values[known], response.values[known]
    levels = np.unique(x)
    if len(levels) <= 8:
        return levels, np.array([np.median(y[x == level]) for level in levels])
    order = np.argsort(x, kind="stable")
    parts = [part for part in np.array_split(order, 8) if len(part)]
    return (
        np.array([np.median(x[part]) for part in parts]),
        np.array([np.median(y[part]) for part in parts]),
    )


def _colours(
    response: NDArray[np.float64], rows: NDArray[np.intp], good: NDArray[np.bool_]
) -> dict[str, Any]:
    known = response[np.isfinite(response)]
    low, high = np.percentile(known, [2, 98])
    return {"c": response[rows][good], "cmap": _DOTS, "vmin": low, "vmax": max(high, low)}


def _apart(axis: _Axis, rows: NDArray[np.intp], *, turn: int) -> NDArray[np.float64]:
    """The values to draw; points on one choice are strewn a little so that they do not hide."""
    if not axis.ticks:
        return axis.values[rows]
    # The golden and the silver ratio fill an interval evenly, without a random draw.
    step = (0.6180339887498949, 0.41421356237309503)[turn]
    return axis.values[rows] + 0.3 * ((rows * step) % 1.0 - 0.5)


def _histogram(place: Any, axis: _Axis, rows: NDArray[np.intp]) -> None:
    values = axis.values[rows]
    if axis.ticks:
        bins = np.arange(len(axis.ticks) + 1) - 0.5
    elif axis.whole and np.ptp(values) <= 40:
        bins = np.arange(values.min(), values.max() + 2) - 0.5
    elif axis.log:
        bins = np.geomspace(values.min(), max(values.max(), values.min() * 1.001), 13)
    else:
        bins = np.linspace(values.min(), max(values.max(), values.min() + 1e-300), 13)
    place.hist(values, bins=np.unique(bins), color=_POINT, alpha=0.6)
    place.set_yticks([])


def _scale(axis: Any, shown: _Axis) -> None:
    if shown.ticks:
        many = len(shown.ticks) > 8
        axis.set_ticks(
            range(len(shown.ticks)), labels=[] if many else [t[:12] for t in shown.ticks]
        )
    elif shown.log:
        axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")


def _label(place: Any, across: _Axis, down: _Axis, *, row: int, column: int, last: int) -> None:
    place.tick_params(labelsize=7)
    if row == last:
        place.set_xlabel(across.label, fontsize=8)
    else:
        place.tick_params(labelbottom=False)
    if column == 0 and across is not down:
        place.set_ylabel(down.label, fontsize=8)
    elif column > 0:
        place.tick_params(labelleft=False)


def _title(count: int, shown: int, failed: int) -> str:
    points = "1 point" if count == 1 else f"{count} points"
    thinned = f" ({shown} shown)" if shown < count else ""
    return f"{points}{thinned}" + (f", {failed} failed (x)" if failed else "")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=110, metadata={"Software": "vistaflow"})
