"""The model along parameters.

picture    a panel                what the line is
effects    response, parameter    the mean over points of the kit, with this parameter changed
slices     response, parameter    the model through the best point
contours   response               the model over two parameters through the best point
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vistaflow_services.core.errors import field_error
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.space import Parameter
from vistaflow_services.optimize.pictures import style
from vistaflow_services.optimize.pictures.relations import total_effects
from vistaflow_services.optimize.pictures.subject import Subject, need_model
from vistaflow_services.surrogates.transforms import Prediction

MOST_PARAMETERS = 6
MOST_RESPONSES = 6
BACKGROUND = 48
"""Points over which a main effect is averaged."""
STEPS, GRID = 25, 41
"""Places along a line, and along each side of a surface."""

Along = Callable[[Parameter, Sequence[Any]], tuple[dict[str, Prediction], list[dict[str, Any]]]]
"""Predictions by response at values of a parameter, and the points they are of."""


def effects(subject: Subject, chosen: Sequence[str] = (), response: str = "") -> Figure:
    """The mean effect of each parameter on each response, with the points."""
    need_model(subject)
    rng = np.random.default_rng(0)
    count = min(BACKGROUND, len(subject.points))
    rows = np.sort(rng.permutation(len(subject.points))[:count])
    background = [dict(subject.points[row]) for row in rows]

    def along(parameter: Parameter, values: Sequence[Any]) -> Any:
        points = [{**point, parameter.name: value} for value in values for point in background]
        means = {
            name: Prediction(
                **{
                    key: part.reshape(len(values), -1).mean(axis=1)
                    for key, part in vars(prediction).items()
                }
            )
            for name, prediction in subject.predict(points).items()
        }
        return means, []

    title = "Main effects: the model averaged over the points of the kit"
    return _lines(subject, chosen, response, along, title)


def slices(subject: Subject, chosen: Sequence[str] = (), response: str = "") -> Figure:
    """The model along each parameter, the others as at the best point."""
    need_model(subject)

    def along(parameter: Parameter, values: Sequence[Any]) -> Any:
        points = [{**subject.centre, parameter.name: value} for value in values]
        return subject.predict(points), points

    where = "best point" if subject.best else "middle of the space"
    title = f"Slices through the {where}; shaded: the model misses a constraint"
    return _lines(subject, chosen, response, along, title)


def _lines(
    subject: Subject, chosen: Sequence[str], response: str, along: Along, title: str
) -> Figure:
    names = _responses(subject, response)
    parameters = _parameters(subject, chosen, MOST_PARAMETERS)
    figure, grid = style.panels(len(names), len(parameters), width=2.3, height=1.9)
    for column, parameter in enumerate(parameters):
        values = _values(parameter, STEPS)
        along_x = style.places(parameter, np.array(values, object))
        predictions, points = along(parameter, values)
        missed = _missed(subject, predictions, points)
        x = style.places(parameter, subject.column(parameter.name))
        for row, name in enumerate(names):
            axes, prediction = grid[row][column], predictions[name]
            axes.grid(alpha=0.25)
            limits = subject.limit_of(name)
            # All panels of a row have one axis, whatever the model says in one of them.
            shown = np.concatenate([subject.responses[name], limits])
            style.response_axis(axes, name, subject.units[name], shown)
            style.scatter(axes, subject, x, subject.responses[name])
            if parameter.choices:
                spread = np.abs(
                    np.stack([prediction.median - prediction.low95,
                              prediction.high95 - prediction.median])
                )  # fmt: skip
                axes.errorbar(
                    along_x, prediction.median, spread, fmt="s", ms=4, color=style.MODEL, zorder=4
                )
            else:
                axes.fill_between(
                    along_x, prediction.low95, prediction.high95, color=style.BAND, alpha=0.6, lw=0
                )
                axes.plot(along_x, prediction.median, color=style.MODEL, lw=1.6, zorder=4)
            for limit in limits:
                axes.axhline(limit, color=style.LIMIT, ls="--", lw=1.2)
            _shade(axes, along_x, missed)
            if subject.best is not None:
                place = style.places(parameter, np.array([subject.best[parameter.name]], object))
                axes.axvline(place[0], color=style.BEST, lw=0.8, ls=":")
            style.parameter_axis(axes.xaxis, parameter, label=row == len(names) - 1)
            if row < len(names) - 1:
                axes.tick_params(axis="x", labelbottom=False)
            if column:
                axes.set_ylabel("")
                axes.tick_params(axis="y", labelleft=False)
    title += _left_out(len(parameters), len(subject.free), "parameters")
    title += _left_out(len(names), len(_modelled(subject)), "responses")
    return style.finish(figure, subject, title, style.kinds_of(subject, "model", best="best line"))


def contours(subject: Subject, chosen: Sequence[str] = (), response: str = "") -> Figure:
    """Each response over two parameters, the others as at the best point."""
    need_model(subject)
    names = _responses(subject, response)
    pair = _parameters(subject, chosen, 2)
    if len(pair) < 2:
        raise field_error("parameters", "contours need two parameters that vary")
    across, down = pair
    sides = [_values(parameter, GRID) for parameter in pair]
    points = [
        {**subject.centre, across.name: right, down.name: up}
        for up in sides[1]
        for right in sides[0]
    ]
    predictions = subject.predict(points)
    shape = (len(sides[1]), len(sides[0]))
    x, y = (
        style.places(parameter, np.array(side, object))
        for parameter, side in zip(pair, sides, strict=True)
    )
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, grid = style.panels(rows, columns, width=3.4, height=2.9)
    excesses = _excesses(subject, predictions, points)
    dots = [style.places(parameter, subject.column(parameter.name)) for parameter in pair]
    for place, axes in enumerate(grid.ravel()):
        if place >= len(names):
            axes.set_axis_off()
            continue
        name = names[place]
        surface = predictions[name].median.reshape(shape)
        discrete = bool(across.choices or down.choices)
        style.parameter_axis(axes.xaxis, across)
        style.parameter_axis(axes.yaxis, down)
        if discrete:
            norm = LogNorm() if style.is_wide(surface) else None
            drawn = axes.pcolormesh(
                x, y, surface, shading="nearest", cmap="viridis", norm=norm, zorder=1
            )
        elif style.is_wide(surface):
            levels = np.geomspace(surface.min(), surface.max(), 13)
            drawn = axes.contourf(x, y, surface, levels, cmap="viridis", norm=LogNorm(), zorder=1)
        else:
            drawn = axes.contourf(x, y, surface, 12, cmap="viridis", zorder=1)
        bar = figure.colorbar(drawn, ax=axes)
        if style.is_wide(surface):
            style.few_ticks(bar.ax.yaxis, surface.min(), surface.max())
        bar.ax.tick_params(labelsize=7)
        bar.ax.yaxis.get_offset_text().set_fontsize(7)
        for excess in excesses:
            over = excess.reshape(shape)
            if over.min() < 0 < over.max() and not discrete:
                axes.contour(x, y, over, [0.0], colors=style.LIMIT, linestyles="--", zorder=3)
        worst = np.max(excesses, axis=0).reshape(shape) if excesses else np.full(shape, -1.0)
        if worst.max() > 0 and discrete:
            cells = np.ma.masked_less_equal(worst, 0.0)
            clear = ListedColormap([(0.0, 0.0, 0.0, 0.0)])
            hatched = axes.pcolor(
                x, y, cells, shading="nearest", cmap=clear, hatch="///", lw=0, zorder=2
            )
            hatched.set_edgecolor("white")
        elif worst.max() > 0:
            hatched = axes.contourf(
                x, y, worst, [0.0, np.inf], colors="none", hatches=["///"], zorder=2
            )
            hatched.set_edgecolor("white")
            hatched.set_linewidth(0)
        _dots(axes, subject, *dots)
        axes.set_title(style.labelled(name, subject.units[name], 30), fontsize=9)
    where = "best point" if subject.best else "middle of the space"
    title = f"The model through the {where}; hatched: it misses a constraint"
    return style.finish(figure, subject, title, style.kinds_of(subject))


def _dots(axes: Any, subject: Subject, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Points over a surface, with an edge that is seen on any colour."""
    ran = ~subject.failed
    for where, face in (
        (ran & ~subject.feasible, style.MISSED),
        (subject.feasible, style.FEASIBLE),
    ):
        axes.scatter(x[where], y[where], s=13, color=face, edgecolor="white", lw=0.5, zorder=4)
    down = subject.failed
    axes.scatter(x[down], y[down], s=18, marker="x", color=style.FAILED, lw=1.1, zorder=4)
    best = _best_row(subject)
    if best is not None:
        axes.scatter(
            x[best], y[best], s=110, marker="*", color=style.BEST, edgecolor="white", zorder=5
        )


def _best_row(subject: Subject) -> int | None:
    """The row of the best point."""
    if subject.best is None:
        return None
    return next((row for row, point in enumerate(subject.points) if point == subject.best), None)


def _excesses(
    subject: Subject, predictions: Mapping[str, Prediction], points: Sequence[Mapping[str, Any]]
) -> list[NDArray[np.float64]]:
    """By how much the model misses each constraint that it can tell of."""
    missing = []
    for constraint in subject.constraints:
        if all(name in predictions or name in points[0] for name in constraint.names):
            values = {
                name: predictions[name].median
                if name in predictions
                else np.array([point[name] for point in points])
                for name in constraint.names
            }
            missing.append(np.broadcast_to(constraint.violation(values), len(points)))
    return missing


def _missed(
    subject: Subject, predictions: Mapping[str, Prediction], points: Sequence[Mapping[str, Any]]
) -> NDArray[np.bool_]:
    excesses = _excesses(subject, predictions, points) if points else []
    return np.max(excesses, axis=0) > 0 if excesses else np.zeros(0, np.bool_)


def _shade(axes: Any, along_x: NDArray[np.float64], missed: NDArray[np.bool_]) -> None:
    """Shades where a constraint is missed."""
    if missed.any():
        axes.fill_between(
            along_x, 0, 1, where=missed, color=style.LIMIT, alpha=0.10, lw=0, step="mid",
            transform=axes.get_xaxis_transform(), zorder=0,
        )  # fmt: skip


def _values(parameter: Parameter, count: int) -> list[Any]:
    """Values along a parameter's range, on its scale; of choices all."""
    if parameter.choices:
        return list(parameter.choices)
    decoded = parameter.decode(np.linspace(0, 1, count)).tolist()
    return list(dict.fromkeys(decoded))


def _modelled(subject: Subject) -> list[str]:
    assert subject.model is not None
    return [name for name in subject.drawn_responses if name in subject.model.response_names] or [
        name for name in subject.units if name in subject.model.response_names
    ]


def _responses(subject: Subject, response: str) -> list[str]:
    assert subject.model is not None
    if not response:
        return _modelled(subject)[:MOST_RESPONSES]
    names = subject.model.response_names
    if response not in names:
        raise field_error("response", f"no model of `{response}`{suggest(response, names)}")
    return [response]


def _parameters(subject: Subject, chosen: Sequence[str], most: int) -> list[Parameter]:
    """Those that are chosen, or those that matter most, in the deck's order."""
    names = [parameter.name for parameter in subject.free]
    for index, name in enumerate(chosen):
        if name not in names:
            problem = f"`{name}` is no parameter that varies{suggest(name, names)}"
            raise field_error(f"parameters[{index}]", problem)
    if chosen:
        by_name = {parameter.name: parameter for parameter in subject.free}
        return [by_name[name] for name in dict.fromkeys(chosen)][:most]
    if len(subject.free) <= most:
        return subject.free
    matter = np.sum(list(total_effects(subject).values()), axis=0)
    shown = sorted(np.argsort(-matter, kind="stable")[:most].tolist())
    return [subject.free[index] for index in shown]


def _left_out(shown: int, count: int, what: str) -> str:
    return f" ({shown} of {count} {what})" if shown < count else ""
