"""Pictures of a job's result. They are for people to look at: none of them can fail a job."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vistaflow_services.core.work.attempt import Attempt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORNER_INCHES = 0.2


def draw_pictures(
    attempt: Attempt, drawings: Mapping[str, Callable[[], Figure]]
) -> list[dict[str, Any]]:
    """Draws pictures beside the result of an attempt.

    What goes wrong with one is written into the job's log, and that picture is left out.

    Args:
        attempt: Where they go.
        drawings: By file name, what draws the picture.

    Returns:
        The name, URI, size and hash of each picture that was drawn.
    """
    described = []
    corner = f"kit {attempt.kit_id} · {datetime.now(UTC):%Y-%m-%d}"
    for name, draw in drawings.items():
        path = attempt.folder / name
        try:
            figure = sign(draw(), corner)
            with attempt.artifacts.writing(path) as temporary:
                figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
            described.append({"name": name, **attempt.artifacts.describe(path)})
        except Exception:
            traceback.print_exc()
            print(f"{name} could not be drawn and is omitted", file=sys.stderr, flush=True)
    return described


def sign(figure: Figure, text: str) -> Figure:
    """Writes into the lower right corner what a picture is of, with room for it."""
    engine, share = figure.get_layout_engine(), CORNER_INCHES / figure.get_figheight()
    if engine is not None:
        engine.set(rect=(0, share, 1, 1 - share))  # type: ignore[call-arg]
    figure.text(0.995, 0.005, text, ha="right", va="bottom", fontsize=7, color="#666677")
    return figure
