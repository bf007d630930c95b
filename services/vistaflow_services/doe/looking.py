"""One point of a deck, run to be looked at: what it was given, what it printed, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.feasibility import find_feasible
from vistaflow_services.decks.space import Choice, Parameter, Point
from vistaflow_services.designs.recipe import Region
from vistaflow_services.simulators import Outcome, run_point
from vistaflow_services.simulators.run_files import RunFile, files_of


@dataclass(kw_only=True)
class Look:
    """What one run was given and what came of it."""

    outcome: Outcome
    log: str = ""
    files: list[RunFile] = field(default_factory=list)


def middle(region: Region, chosen: Mapping[str, Any]) -> Point:
    """A point with some values chosen; the others are held, at their default or in the middle.

    Raises:
        InvalidError: With each value that is none, its field the parameter's name.
    """
    values: dict[str, Any] = {
        parameter.name: region.fixed.get(parameter.name, _middle(parameter))
        for parameter in region.space.parameters
    }
    space = region.space
    point = space.check({**values, **chosen})
    if not chosen and not all(constraint.met(point) for constraint in space.constraints):
        return find_feasible(space) or point
    return point


def look(
    deck: Deck, point: Point, *, scratch: Path, seconds: float, should_stop: Callable[[], bool]
) -> Look:
    """Runs a point; its files are those that the run had at its end."""
    looked: dict[str, Any] = {}

    def observe(work: Path | None, printed: str) -> None:
        looked["log"] = printed
        looked["files"] = files_of(deck, work) if work is not None else []

    outcome = run_point(
        deck,
        point,
        scratch_root=scratch,
        timeout=seconds,
        should_stop=should_stop,
        observe=observe,
    )
    return Look(outcome=outcome, **looked)


def _middle(parameter: Parameter) -> Choice:
    if parameter.default is not None:
        return parameter.default
    value: Choice = parameter.decode(
        parameter.encode(_ends(parameter)).mean(keepdims=True)
    ).tolist()[0]
    return value


def _ends(parameter: Parameter) -> list[Any]:
    if parameter.choices:
        return [parameter.choices[0], parameter.choices[-1]]
    return [parameter.low, parameter.high]
