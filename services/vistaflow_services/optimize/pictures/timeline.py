"""When the jobs of a kit ran."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from vistaflow_services.optimize.pictures import style
from vistaflow_services.optimize.pictures.subject import Subject

COLOURS = {"FINISHED": style.FEASIBLE, "FAILED": style.FAILED, "RUNNING": style.MODEL}
"""Of bars, by status; others are grey."""

SCALES = ((2 * 86_400, "d", 86_400), (2 * 3_600, "h", 3_600), (120, "min", 60), (0, "s", 1))
"""From how many seconds a unit is used, its sign, its seconds."""


def timeline(subject: Subject, chosen: Sequence[str] = (), response: str = "") -> Figure:
    """A bar for each job from its start to its end."""
    stages = subject.stages
    began = [stage.started for stage in stages if stage.started]
    moments = began + [stage.ended for stage in stages if stage.ended and stage.started]
    first = min(began, default=None)
    whole = (max(moments) - first).total_seconds() if first else 0.0
    _, unit, size = next(scale for scale in SCALES if whole >= scale[0])
    span = max(whole / size, 1e-3)
    figure = style.canvas(8.0, 0.36 * len(stages) + 1.5)
    axes = figure.subplots()
    for row, stage in enumerate(stages):
        if first is None or stage.started is None:
            words = "not started" if stage.status in ("INIT", "QUEUED") else stage.status.lower()
            axes.text(0.01 * span, row, words, va="center", fontsize=8, color=style.MUTED)
            continue
        start = (stage.started - first).total_seconds() / size
        end = (stage.ended or max(moments)) - first
        length = end.total_seconds() / size - start
        colour = COLOURS.get(stage.status, style.MUTED)
        axes.barh(row, max(length, 0.004 * span), left=start, color=colour, height=0.6)
        words = f"{length:.3g} {unit}"
        if stage.status != "FINISHED":
            words += f", {stage.status.lower()}"
        axes.text(start + length + 0.01 * span, row, words, va="center", fontsize=8)
    axes.set_yticks(
        range(len(stages)), [style.short(stage.name, 28) for stage in stages], fontsize=9
    )
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * span)
    axes.set_xlabel(
        f"{unit} since {first:%Y-%m-%d %H:%M} UTC" if first else "not started", fontsize=8
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    return style.finish(figure, subject, f"Jobs of {style.short(subject.name, 60)}")
