"""The table of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.figure import Figure

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.optimize.pictures import relations, style, surfaces, timeline
from vistaflow_services.optimize.pictures.subject import Subject

MEDIA_TYPES: Final = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}
"""By format."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One kind of picture."""

    draw: Callable[[Subject, Sequence[str], str], Figure]
    """Of a kit, of some parameters, of one response; empty: those that matter."""
    shows: str
    """What it shows, for people."""


PICTURES: Final = {
    "effects": Picture(
        draw=surfaces.effects, shows="main effect of each parameter by the model, with its band"
    ),
    "slices": Picture(draw=surfaces.slices, shows="the model through the best point"),
    "contours": Picture(draw=surfaces.contours, shows="the model over two parameters"),
    "parallel": Picture(draw=relations.parallel, shows="every point over all parameters"),
    "importance": Picture(draw=relations.importance, shows="which parameters matter, by the model"),
    "correlation": Picture(draw=relations.correlation, shows="rank correlations of all points"),
    "timeline": Picture(draw=timeline.timeline, shows="when the jobs ran"),
}
"""By name."""


MOST_CHOSEN: Final = 100
"""Parameters that a request names."""


def check(picture: str, file_format: str, chosen: Sequence[str]) -> None:
    """Refuses what there is not.

    Raises:
        InvalidError: With each mistake.
    """
    violations = Violations()
    if picture not in PICTURES:
        known = ", ".join(PICTURES)
        close = suggest(picture, list(PICTURES))
        violations.add("picture", f"`{picture[:50]}` is none of {known}{close}")
    if file_format not in MEDIA_TYPES:
        violations.add("format", f"`{file_format[:50]}` is none of {', '.join(MEDIA_TYPES)}")
    if len(chosen) > MOST_CHOSEN:
        violations.add("parameters", f"{len(chosen)} are named; name at most {MOST_CHOSEN}")
    violations.check()


def drawn(
    subject: Subject, picture: str, file_format: str, chosen: Sequence[str], response: str
) -> bytes:
    """A picture as a file.

    Args:
        subject: What it is of.
        picture: Its name.
        file_format: `png`, `svg` or `pdf`.
        chosen: The parameters to show; those that matter most if empty.
        response: The response to show; all if empty.

    Raises:
        ConflictError: The kit has no points or no model yet.
        InvalidError: There is no such parameter or response.
    """
    figure = PICTURES[picture].draw(subject, chosen, response)
    return style.saved(figure, file_format)
