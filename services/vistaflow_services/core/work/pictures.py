"""Pictures of a job's result. They are for people to look at: none of them can fail a job."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vistaflow_services.core.work.attempt import Attempt


def draw_pictures(
    attempt: Attempt, drawings: Mapping[str, Callable[[Path], None]]
) -> list[dict[str, Any]]:
    """Draws pictures beside the result of an attempt.

    What goes wrong with one is written into the job's log, and that picture is left out.

    Args:
        attempt: Where they go.
        drawings: By file name, what draws the picture at a path.

    Returns:
        The name, URI, size and hash of each picture that was drawn.
    """
    described = []
    for name, draw in drawings.items():
        path = attempt.folder / name
        try:
            with attempt.artifacts.writing(path) as temporary:
                draw(temporary)
            described.append({"name": name, **attempt.artifacts.describe(path)})
        except Exception:
            traceback.print_exc()
            print(f"{name} could not be drawn and is omitted", file=sys.stderr, flush=True)
    return described
