"""Pictures of a design: where its points lie, and how the responses follow the parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import rankdata

from vistaflow_services.decks.space import Columns, Kind, Parameter, Scale
from vistaflow_services.designs.recipe import Region
from vistaflow_services.designs.table import Results
from vistaflow_services.surrogates.extremes import huge_limit

MOST_PARAMETERS = 6
MOST_RESPONSES = 6
MOST_POINTS = 5000
"""More points are thinned evenly: a picture of a million dots shows no more."""

_DOTS = "viridis"
_POINT = "#33658a"
_FAILED = "#d1495b"


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """One parameter or response as numbers to draw: logarithms are taken beforehand.

    matplotlib lays out the ticks of logarithmic axes for each panel, which is slow; here they are
    chosen once for a column of panels.
    """

    label: str
    values: NDArray[np.float64]
    places: Sequence[float]
    names: Sequence[str]
    """Ticks: where they are, and what is written there."""

    low: float
    high: float
    whole: bool = False
    choices: int = 0
    """How many there are, if the values are places of choices 0, 1, 2, …"""


def plot_design(
    region: Region, columns: Columns, results: Results, *, units: dict[str, str]
) -> Figure:
    """Pair scatter of up to 6 parameters, coloured by the first response if there is one.

    Failed runs are red crosses. Of more than 6 parameters those that move the
    response most are shown.
    """
    results = _drawable(results)
    rows = _thinned(len(results.seconds))
    response = _first_response(results, units)
    shown = _most_moving(region, columns, None if response is None else response.values)
    axes = [_parameter_axis(parameter, columns[parameter.name]) for parameter in shown]
    count = len(axes)
    figure, grid = _panels(count, count, width=1.9, height=1.9, colours=response is not None)
    failed = results.failed[rows]
    mappable = None
    for row, down in enumerate(axes):
        for column, across in enumerate(axes):
            place = grid[row][column]
            if column > row:
                place.set_visible(False)
            elif column == row:
                _histogram(place, across, rows)
            else:
                x, y = _apart(across, rows, turn=0), _apart(down, rows, turn=1)
                drawn = _dots(place, x, y, failed, rows, response)
                mappable = mappable or drawn
            _label(place, across, None if column == row else down, row, column, last=count - 1)
    if response is not None and mappable is not None:
        _colour_bar(figure, mappable, response)
    figure.suptitle(_title(len(results.seconds), len(rows), int(results.failed.sum())), fontsize=11)
    return figure


def plot_responses(
    region: Region, columns: Columns, results: Results, *, units: dict[str, str]
) -> Figure:
    """Each response against each parameter."""
    results = _drawable(results)
    rows = _thinned(len(results.seconds))
    finite_responses = {
        name: response
        for name, response in results.responses.items()
        if np.isfinite(response).any()
    }
    down = [
        _response_axis(name, values, units.get(name, ""))
        for name, values in list(finite_responses.items())[:MOST_RESPONSES]
    ]
    shown = _most_moving(region, columns, down[0].values if down else None)
    across = [_parameter_axis(parameter, columns[parameter.name]) for parameter in shown]
    figure, grid = _panels(len(down), len(across), width=2.1, height=1.7)
    for row, response in enumerate(down):
        for column, parameter in enumerate(across):
            place = grid[row][column]
            x = _apart(parameter, rows, turn=0)
            place.scatter(x, response.values[rows], s=9, linewidths=0, color=_POINT)
            _label(place, parameter, response, row, column, last=len(down) - 1)
    figure.suptitle("Responses along each parameter", fontsize=11)
    return figure


def _drawable(results: Results) -> Results:
    """The results without values too large to be a response: all others would be one dot."""
    responses = {
        name: np.where(np.abs(values) > huge_limit(values), np.nan, values)
        for name, values in results.responses.items()
    }
    return replace(results, responses=responses)


def _panels(
    rows: int, columns: int, *, width: float, height: float, colours: bool = False
) -> tuple[Figure, Any]:
    """A grid of panels of this size in inches, with room for labels at the left and below."""
    left, right, below, above = 0.95, 1.1 if colours else 0.2, 0.65, 0.4
    wide, high = columns * width + left + right, rows * height + below + above
    figure = Figure(figsize=(wide, high))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=left / wide,
        right=1 - right / wide,
        bottom=below / high,
        top=1 - above / high,
        wspace=0.14,
        hspace=0.08,
    )
    return figure, figure.subplots(rows, columns, squeeze=False)


def _thinned(count: int) -> NDArray[np.intp]:
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.linspace(0, count - 1, MOST_POINTS).astype(np.intp)


def _first_response(results: Results, units: dict[str, str]) -> _Axis | None:
    """The first response that has a value."""
    for name, values in results.responses.items():
        if np.isfinite(values).any():
            return _response_axis(name, values, units.get(name, ""))
    return None


def _most_moving(
    region: Region, columns: Columns, response: NDArray[np.float64] | None
) -> list[Parameter]:
    """Up to 6 parameters, in their order: those whose ranks correlate most with the response."""
    if len(region.free) <= MOST_PARAMETERS:
        return list(region.free)
    if response is None or np.isfinite(response).sum() < 3:
        return list(region.free[:MOST_PARAMETERS])
    finite = np.isfinite(response)
    ranks = rankdata(response[finite])
    moves = []
    for parameter in region.free:
        places = rankdata(parameter.encode(columns[parameter.name])[finite])
        flat = np.ptp(places) == 0 or np.ptp(ranks) == 0
        moves.append(0.0 if flat else abs(float(np.corrcoef(places, ranks)[0, 1])))
    best = sorted(np.argsort(moves, kind="stable")[-MOST_PARAMETERS:].tolist())
    return [region.free[index] for index in best]


def _parameter_axis(parameter: Parameter, values: NDArray[Any]) -> _Axis:
    label = f"{parameter.name} [{parameter.unit}]" if parameter.unit else parameter.name
    if parameter.choices:
        count = len(parameter.choices)
        named = [str(choice)[:12] for choice in parameter.choices]
        return _Axis(
            label=label,
            values=parameter.positions(values).astype(np.float64),
            places=list(range(count)) if count <= 8 else [],
            names=named if count <= 8 else [],
            low=-0.5,
            high=count - 0.5,
            choices=count,
        )
    log = parameter.scale is Scale.LOG
    return _numbers(label, values.astype(np.float64), log, parameter.kind is Kind.INTEGER)


def _response_axis(name: str, values: NDArray[np.float64], unit: str) -> _Axis:
    """Logarithmic where all values are positive and span a factor of 50 or more."""
    finite = values[np.isfinite(values)]
    log = bool(len(finite) and finite.min() > 0 and finite.max() >= 50 * finite.min())
    return _numbers(f"{name} [{unit}]" if unit else name, values, log, whole=False)


def _numbers(label: str, values: NDArray[np.float64], log: bool, whole: bool) -> _Axis:
    """Numbers with about four round ticks within their range."""
    drawn = np.log10(values) if log else values
    low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
    if not log:
        round_numbers = MaxNLocator(4, integer=whole).tick_values(low, high)
        ticks = [(float(round_number), f"{round_number:.6g}") for round_number in round_numbers]
    elif high - low >= 2:
        step = max(1, round((high - low) / 4))
        decades = range(math.floor(low), math.ceil(high) + 1, step)
        ticks = [(float(decade), f"1e{decade}") for decade in decades]
    else:
        decades = range(math.floor(low), math.ceil(high) + 1)
        round_numbers = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        ticks = [
            (math.log10(round_number), f"{round_number:.6g}") for round_number in round_numbers
        ]
    room = 0.04 * (high - low) or 0.5
    inside = [tick for tick in ticks if low - room <= tick[0] <= high + room]
    return _Axis(
        label=label,
        values=drawn,
        places=[place for place, _ in inside],
        names=[name for _, name in inside],
        low=low - room,
        high=high + room,
        whole=whole,
    )


def _dots(
    place: Any,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    failed: NDArray[np.bool_],
    rows: NDArray[np.intp],
    response: _Axis | None,
) -> Any:
    """Draws the points; returns what a colour bar is made from, if they have colours."""
    good = ~failed
    place.scatter(x[failed], y[failed], s=26, marker="x", color=_FAILED, linewidths=1)
    if response is None:
        place.scatter(x[good], y[good], s=14, linewidths=0, color=_POINT)
        return None
    finite = response.values[np.isfinite(response.values)]
    low, high = np.percentile(finite, [2, 98])
    colours = response.values[rows][good]
    return place.scatter(
        x[good], y[good], s=14, linewidths=0, c=colours, cmap=_DOTS, vmin=low, vmax=high
    )


def _colour_bar(figure: Figure, mappable: Any, response: _Axis) -> None:
    box = figure.subplotpars
    place = figure.add_axes((box.right + 0.02, 0.25, 0.015, 0.5))
    bar = figure.colorbar(mappable, cax=place, label=response.label)
    low, high = mappable.get_clim()
    inside = [
        (place, name)
        for place, name in zip(response.places, response.names, strict=True)
        if low <= place <= high
    ]
    bar.set_ticks([place for place, _ in inside], labels=[name for _, name in inside])
    bar.ax.tick_params(labelsize=7)


def _apart(axis: _Axis, rows: NDArray[np.intp], *, turn: int) -> NDArray[np.float64]:
    """The values to draw; points on one choice are strewn a little so that they do not hide."""
    if not axis.choices:
        return axis.values[rows]
    # The golden and the silver ratio fill an interval evenly, without a random draw.
    step = (0.6180339887498949, 0.41421356237309503)[turn]
    return axis.values[rows] + 0.3 * ((rows * step) % 1.0 - 0.5)


def _histogram(place: Any, axis: _Axis, rows: NDArray[np.intp]) -> None:
    values = axis.values[rows]
    if axis.choices or (axis.whole and np.ptp(values) <= 40):
        bins = np.arange(values.min(), values.max() + 2) - 0.5
    else:
        bins = np.linspace(values.min(), values.max() or 1e-12, 13)
    place.hist(values, bins=np.unique(bins), color=_POINT, alpha=0.6)
    place.set_yticks([])


def _label(
    place: Any, across: _Axis, down: _Axis | None, row: int, column: int, *, last: int
) -> None:
    """Ticks on every panel, words on the outermost only; `down` is none for a histogram."""
    lowest, leftmost = row == last, column == 0
    place.set_xlim(across.low, across.high)
    place.set_xticks(across.places, across.names if lowest else [""] * len(across.places))
    place.tick_params(labelsize=7, length=2)
    if lowest:
        place.set_xlabel(across.label, fontsize=8)
    if down is None:
        return
    place.set_ylim(down.low, down.high)
    place.set_yticks(down.places, down.names if leftmost else [""] * len(down.places))
    if leftmost:
        place.set_ylabel(down.label, fontsize=8)


def _title(count: int, shown: int, failed: int) -> str:
    points = "1 point" if count == 1 else f"{count} points"
    thinned = f" ({shown} shown)" if shown < count else ""
    return f"{points}{thinned}" + (f", {failed} failed (x)" if failed else "")
