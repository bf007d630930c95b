"""What all pictures share: colours, marks, axes, the corner, and how they are saved."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vistaflow_services.core.work.pictures import sign
from vistaflow_services.decks.space import Parameter, Scale
from vistaflow_services.optimize import plots
from vistaflow_services.optimize.pictures.subject import Subject

FEASIBLE, MISSED, FAILED, BEST = plots.FEASIBLE, plots.MISSED, plots.FAILED, plots.BEST
WIDE = plots.WIDE
MODEL, BAND, LIMIT, MUTED = "#1f5fa8", "#9dbfe3", "#b03a2e", "#666677"

MOST_VECTORS = 400
"""Points of a panel beyond which they are pixels in SVG and PDF, too: else files are huge."""

LONGEST_LABEL = 22
"""Characters of a name on an axis; of a longer one the middle is left out."""


def short(text: str, most: int = LONGEST_LABEL) -> str:
    """A name that fits beside an axis: its ends say more than its middle."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[-(most - 1 - head) :]}"


def labelled(name: str, unit: str, most: int = LONGEST_LABEL) -> str:
    """A name with its unit."""
    return f"{short(name, most)} [{unit}]" if unit else short(name, most)


def canvas(width: float, height: float) -> Figure:
    """An empty picture of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, Any]:
    """A picture of panels of this size in inches, (rows, columns)."""
    figure = canvas(max(4.2, columns * width + 0.6), max(3.0, rows * height + 0.9))
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish(figure: Figure, subject: Subject, title: str, kinds: Sequence[str] = ()) -> Figure:
    """Writes the title, the kit and its date in the corner, and what the marks mean.

    Args:
        figure: The picture.
        subject: What it is of.
        title: What it shows.
        kinds: Keys of `MARKS` that occur in it.
    """
    title = "\n".join(textwrap.wrap(title, int(11 * figure.get_figwidth())))
    figure.suptitle(title, fontsize=11)
    handles = [MARKS[kind] for kind in kinds]
    if handles:
        # Below the panels, so that it hides nothing.
        columns = max(2, int(figure.get_figwidth() / 1.9))
        figure.legend(
            handles=handles, loc="outside lower left", ncols=columns, fontsize=8, frameon=False
        )
    return sign(figure, f"kit {subject.kit_id} · {subject.date}")


def _mark(label: str, color: str, **style: Any) -> Line2D:
    return Line2D([], [], label=label, color=color, **style)


MARKS = {
    "feasible": _mark("feasible", FEASIBLE, ls="", marker="o", ms=5),
    "missed": _mark("misses a constraint", MISSED, ls="", marker="o", ms=5, mfc="none"),
    "failed": _mark("failed", FAILED, ls="", marker="x", ms=5),
    "best": _mark("best", BEST, ls="", marker="*", ms=9),
    "best line": _mark("best", BEST, ls=":", lw=1.0),
    "model": _mark("model, 95 % band", MODEL, lw=1.6),
    "limit": _mark("limit of a constraint", LIMIT, ls="--", lw=1.2),
}
"""How each kind of mark looks, for the legend."""


def kinds_of(subject: Subject, *others: str, best: str = "best") -> list[str]:
    """The kinds of points that the subject has, and others; how the best is marked."""
    ran = ~subject.failed
    present = {
        "feasible": subject.feasible.any(),
        "missed": (ran & ~subject.feasible).any(),
        "failed": subject.failed.any(),
        best: subject.best is not None,
        "limit": bool(subject.constraints),
    }
    return [*others, *(kind for kind, there in present.items() if there)]


def scatter(axes: Any, subject: Subject, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Points by what became of them; failed ones have no value and lie at the lower edge."""
    ran = ~subject.failed & np.isfinite(y)
    many = len(y) > MOST_VECTORS
    for where, style in (
        (ran & ~subject.feasible, {"mfc": "none", "color": MISSED, "mew": 0.8}),
        (ran & subject.feasible, {"color": FEASIBLE, "mew": 0}),
    ):
        axes.plot(x[where], y[where], "o", ms=3.2, zorder=2.5, rasterized=many, **style)
    down = subject.failed
    edge = axes.get_xaxis_transform()
    low = np.full(down.sum(), 0.03)
    axes.plot(x[down], low, "x", ms=4, mew=1, color=FAILED, transform=edge, zorder=3)


def places(parameter: Parameter, values: NDArray[Any]) -> NDArray[np.float64]:
    """Where values lie on an axis: themselves, or the number of their choice."""
    if parameter.choices:
        order = {choice: number for number, choice in enumerate(parameter.choices)}
        return np.array([order[value] for value in values.tolist()], np.float64)
    return np.asarray(values, np.float64)


def parameter_axis(axis: Any, parameter: Parameter, *, label: bool = True) -> None:
    """Lays out an axis of matplotlib for a parameter."""
    across = axis.axis_name == "x"
    set_limits = axis.axes.set_xlim if across else axis.axes.set_ylim
    if parameter.choices:
        count = len(parameter.choices)
        # As many names as there is room for.
        step = max(1, count // 6)
        names = [short(str(choice), 12) for choice in parameter.choices[::step]]
        axis.set_ticks(range(0, count, step), names)
        if across and max(map(len, names)) > 3:
            axis.set_tick_params(rotation=30)
            for text in axis.get_ticklabels():
                text.set_ha("right")
                text.set_rotation_mode("anchor")
        set_limits(-0.5, count - 0.5)
    else:
        assert parameter.low is not None
        assert parameter.high is not None
        if parameter.scale is Scale.LOG:
            (axis.axes.set_xscale if across else axis.axes.set_yscale)("log")
            few_ticks(axis, parameter.low, parameter.high)
        else:
            axis.set_major_locator(MaxNLocator(4, integer=parameter.kind == "integer"))
        set_limits(parameter.low, parameter.high)
    axis.set_tick_params(labelsize=7)
    if label:
        axis.set_label_text(labelled(parameter.name, parameter.unit), fontsize=8)


def is_wide(values: NDArray[np.float64]) -> bool:
    """Whether the finite values span decades, so that their logarithms are shown."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() > WIDE * finite.min())


def response_axis(axes: Any, name: str, unit: str, values: NDArray[np.float64]) -> None:
    """Lays out the vertical axis for a response: logarithmic if its values span decades."""
    finite = values[np.isfinite(values)]
    if is_wide(values):
        axes.set_yscale("log")
        axes.set_ylim(finite.min() / 1.5, finite.max() * 1.5)
        few_ticks(axes.yaxis, *axes.get_ylim())
    elif len(finite):
        room = 0.08 * (np.ptp(finite) or abs(finite[0]) or 1.0)
        axes.set_ylim(finite.min() - room, finite.max() + room)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylabel(labelled(name, unit), fontsize=8)


def few_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis that do not touch: at most 5, at round numbers."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.array([])
    # The first choice of round numbers of which there are enough.
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        round_ones = np.outer(decades, digits).ravel()
        ticks = round_ones[(round_ones >= low * 0.999) & (round_ones <= high * 1.001)]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: -(-len(ticks) // 5) or 1]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def saved(figure: Figure, file_format: str) -> bytes:
    """The picture as a file of `png`, `svg` or `pdf`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, dpi=130)
    return buffer.getvalue()
