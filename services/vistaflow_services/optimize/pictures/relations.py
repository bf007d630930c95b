"""All points at once: parallel coordinates, what matters, what goes together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from vistaflow_services.decks.space import Parameter
from vistaflow_services.optimize.pictures import style
from vistaflow_services.optimize.pictures.subject import Subject, need_model, need_points

SAMPLE = 256
"""Pairs of points that an index of importance is estimated from."""

MOST_AXES = 18
"""Axes of parallel coordinates, and rows of a table, that can be read."""


def total_effects(subject: Subject) -> dict[str, NDArray[np.float64]]:
    """Of each modelled response, the part of its variance that each free parameter has a part in.

    The total-effect index by Jansen's estimator, over the space as it is sampled by designs.
    Source: Saltelli et al., "Variance based sensitivity analysis of model output", 2010, table 2.
    """
    assert subject.space is not None
    rng = np.random.default_rng(0)
    width = len(subject.space.parameters)
    first, second = rng.random((2, SAMPLE, width))
    order = [parameter.name for parameter in subject.space.parameters]
    samples = [first]
    for parameter in subject.free:
        changed = first.copy()
        place = order.index(parameter.name)
        changed[:, place] = second[:, place]
        samples.append(changed)
    points = subject.space.points(subject.space.decode_columns(np.concatenate(samples)))
    predictions = subject.predict([{**point, **subject.fixed} for point in points])
    indices = {}
    for name, prediction in predictions.items():
        values = prediction.median
        if style.is_wide(values):
            values = np.log10(values)
        base, *others = values.reshape(len(samples), SAMPLE)
        spread = float(np.var(base)) or 1.0
        indices[name] = np.array([np.mean((base - other) ** 2) / 2 / spread for other in others])
    return indices


def importance(subject: Subject, chosen: Sequence[str] = (), response: str = "") -> Figure:
    """How much of each response's variation each parameter has a part in."""
    need_model(subject)
    indices = total_effects(subject)
    names = [response] if response in indices else list(indices)[:6]
    free = [parameter for parameter in subject.free if not chosen or parameter.name in chosen]
    places = [subject.free.index(parameter) for parameter in free]
    matter = np.array([indices[name][places] for name in names])
    order = np.argsort(matter.sum(axis=0), kind="stable")[-MOST_AXES:]
    figure, grid = style.panels(1, len(names), width=2.5, height=0.28 * len(order) + 1.0)
    for column, name in enumerate(names):
        axes = grid[0][column]
        shares = matter[column][order]
        axes.barh(range(len(order)), shares, color=style.MODEL, height=0.65)
        for row, share in enumerate(shares):
            axes.text(min(share, 1.0) + 0.02, row, f"{share:.2f}", va="center", fontsize=7)
        axes.set_xlim(0, max(1.15, shares.max() + 0.15))
        labels = [style.short(free[index].name) for index in order]
        axes.set_yticks(range(len(order)), labels if column == 0 else [""] * len(order), fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(style.short(name, 24), fontsize=9)
    title = "Importance: part of the variation that each parameter has a part in"
    return style.finish(figure, subject, title)


def parallel(subject: Subject, chosen: Sequence[str] = (), response: str = "") -> Figure:
    """A line for each point over all parameters and responses."""
    need_points(subject)
    parameters = [p for p in subject.free if not chosen or p.name in chosen]
    responses = [response] if response in subject.units else subject.drawn_responses
    parameters = parameters[: MOST_AXES - min(len(responses), 6)]
    responses = responses[: MOST_AXES - len(parameters)]
    axes_of = [_scaled(subject, parameter) for parameter in parameters]
    axes_of += [_scaled_response(subject, name) for name in responses]
    labels = [style.labelled(p.name, p.unit) for p in parameters]
    labels += [style.labelled(name, subject.units[name]) for name in responses]
    count = len(axes_of)
    figure = style.canvas(max(6.0, 1.0 * count + 1.5), 5.0)
    axes = figure.subplots()
    heights = np.column_stack([heights for heights, *_ in axes_of])
    ran = ~subject.failed
    for where, colour, alpha in (
        (ran & ~subject.feasible, style.MISSED, 0.35),
        (subject.failed, style.FAILED, 0.6),
        (subject.feasible, style.FEASIBLE, 0.6),
    ):
        dashes = "--" if colour == style.FAILED else "-"
        axes.plot(heights[where].T, color=colour, alpha=alpha, lw=0.9, ls=dashes)
        if colour == style.FAILED:
            # A failed run has no responses: its line ends at the last parameter.
            ends = heights[where][:, len(parameters) - 1]
            axes.plot([len(parameters) - 1] * len(ends), ends, "x", ms=5, color=colour)
    best = next((row for row, p in enumerate(subject.points) if p == subject.best), None)
    if best is not None:
        axes.plot(heights[best], color=style.BEST, lw=2.4, marker="*", ms=9)
    for place, (_, low, high, marks) in enumerate(axes_of):
        axes.plot([place, place], [0, 1], color="#aaaaaa", lw=0.8, zorder=0)
        for height, text in ((-0.03, low), (1.03, high)):
            va = "top" if height < 0 else "bottom"
            axes.text(place, height, text, ha="center", va=va, fontsize=7, color=style.MUTED)
        for height in marks:
            axes.plot([place - 0.22, place + 0.22], [height] * 2, color=style.LIMIT, lw=2)
    axes.set_ylim(-0.1, 1.1)
    axes.set_xlim(-0.4, count - 0.6)
    axes.set_yticks([])
    axes.set_xticks(range(count), labels, fontsize=8, rotation=35, ha="right")
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    title = f"{len(subject.points)} points; red bars: limits of constraints"
    if subject.failed.all():
        title = f"{len(subject.points)} points: every run failed"
    return style.finish(figure, subject, title, style.kinds_of(subject))


def correlation(subject: Subject, chosen: Sequence[str] = (), response: str = "") -> Figure:
    """The rank correlation of parameters and responses, over the runs that succeeded."""
    need_points(subject)
    ran = ~subject.failed
    names: list[str] = []
    ranks: list[NDArray[np.float64]] = []
    numeric = [p for p in subject.free if p.kind != "categorical"]
    for parameter in numeric:
        if not chosen or parameter.name in chosen:
            names.append(parameter.name)
            ranks.append(style.places(parameter, subject.column(parameter.name))[ran])
    for name in [response] if response in subject.units else subject.units:
        names.append(name)
        ranks.append(subject.responses[name][ran])
    names, ranks = names[: 2 * MOST_AXES], ranks[: 2 * MOST_AXES]
    count, split = len(names), sum(parameter.name in names for parameter in numeric)
    side = max(3.4, 0.42 * count + 1.6)
    figure = style.canvas(side + 1.2, side)
    axes = figure.subplots()
    table = np.full((count, count), np.nan)
    if ran.sum() >= 3:
        for row in range(count):
            for column in range(row):
                table[row, column] = _spearman(ranks[row], ranks[column])
    drawn = axes.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
    for row in range(count):
        for column in range(row):
            value = table[row, column]
            if np.isfinite(value) and count <= 20:
                colour = "white" if abs(value) > 0.6 else "black"
                text = f"{value:.2f}".replace("0.", ".")
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    labels = [style.short(name) for name in names]
    axes.set_xticks(range(count), labels, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(count), labels, fontsize=8)
    axes.axhline(split - 0.5, color="black", lw=1)
    axes.axvline(split - 0.5, color="black", lw=1)
    figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    title = f"Rank correlation over {ran.sum()} runs"
    if ran.sum() < 3:
        title = f"Too few runs succeeded for a correlation: {ran.sum()} of {len(ran)}"
    return style.finish(figure, subject, title)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3 or not np.ptp(first[both]) or not np.ptp(second[both]):
        return float("nan")
    return float(np.corrcoef(rankdata(first[both]), rankdata(second[both]))[0, 1])


def _scaled(
    subject: Subject, parameter: Parameter
) -> tuple[NDArray[np.float64], str, str, list[float]]:
    """Heights in 0 to 1 of a parameter's values, and what its ends are called."""
    if parameter.choices:
        places = style.places(parameter, subject.column(parameter.name))
        ends = [style.short(str(parameter.choices[end]), 14) for end in (0, -1)]
        return places / (len(parameter.choices) - 1), ends[0], ends[1], []
    heights = parameter.encode(subject.column(parameter.name))
    return heights, f"{parameter.low:.3g}", f"{parameter.high:.3g}", []


def _scaled_response(
    subject: Subject, name: str
) -> tuple[NDArray[np.float64], str, str, list[float]]:
    values = subject.responses[name]
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.full(len(values), np.nan), "", "", []
    wide = style.is_wide(values)

    def scale(value: Any) -> Any:
        return np.log10(value) if wide else value

    low, high = scale(finite.min()), scale(finite.max())
    span = float(high - low) or 1.0
    limits = [limit for limit in subject.limit_of(name) if limit > 0 or not wide]
    marks = [float((scale(limit) - low) / span) for limit in limits]
    shown = [mark for mark in marks if -0.02 <= mark <= 1.02]
    return (scale(values) - low) / span, f"{finite.min():.3g}", f"{finite.max():.3g}", shown
