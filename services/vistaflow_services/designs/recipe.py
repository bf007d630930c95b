"""What a design is: how it is requested, where it lies, its points, how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import Violations, field_error
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.space import Choice, Columns, Kind, Parameter, Point, Space
from vistaflow_services.designs import ese

Array = NDArray[np.float64]

MAX_SIZE = 1_000_000
"""Most points of a design."""

MAX_VALUES = 20_000_000
"""Most values of a design, points times parameters: what fits in a laptop's memory."""

DEFAULT_LEVELS = 3
"""Levels of a factorial's parameters for which no number is given."""

MAX_LEVELS = 10_000
"""Most levels of one parameter in a factorial."""

MAX_SEED = 2**63 - 1
"""The greatest seed."""


class Generator(StrEnum):
    """How the points are chosen."""

    FULL_FACTORIAL = "full_factorial"
    LHS = "lhs"
    LHS_ESE = "lhs_ese"
    SOBOL = "sobol"
    HALTON = "halton"


def max_size(generator: Generator) -> int:
    """Most points that a generator makes."""
    return ese.MAX_POINTS if generator is Generator.LHS_ESE else MAX_SIZE


def default_generator(size: int) -> Generator:
    """The generator of a design for which none is named."""
    return Generator.LHS_ESE if size <= max_size(Generator.LHS_ESE) else Generator.SOBOL


@dataclass(frozen=True, kw_only=True)
class Region:
    """The part of a space that a design covers: some parameters vary, others are held."""

    space: Space
    """All parameters of the deck, with the ranges the design covers, and the constraints."""

    fixed: Mapping[str, Choice] = field(default_factory=dict)
    """Canonical values of the parameters that do not vary, by name."""

    def __post_init__(self) -> None:
        if not self.free:
            raise field_error("parameters", "every parameter is fixed: let at least one vary")
        held: dict[str, Choice] = {}
        for name, value in self.fixed.items():
            canonical, problem = self.space[name].canonical(value)
            if canonical is None:
                raise field_error(name, problem)
            held[name] = canonical
        object.__setattr__(self, "fixed", held)

    @cached_property
    def free(self) -> tuple[Parameter, ...]:
        """The parameters that vary, in the space's order."""
        return tuple(
            parameter for parameter in self.space.parameters if parameter.name not in self.fixed
        )

    @property
    def dimension(self) -> int:
        """How many parameters vary."""
        return len(self.free)

    def decode(self, unit: Array) -> Columns:
        """The points at places (n, dimension) of the unit cube, as columns of all parameters."""
        places = {parameter.name: unit[:, index] for index, parameter in enumerate(self.free)}
        return self.complete(
            {parameter.name: parameter.decode(places[parameter.name]) for parameter in self.free}
        )

    def complete(self, varied: Mapping[str, NDArray[Any]]) -> Columns:
        """Columns of all parameters, in order, from those of the parameters that vary."""
        count = len(varied[self.free[0].name])
        return {
            name: np.full(count, self.fixed[name]) if name in self.fixed else varied[name]
            for name in self.space.names
        }

    def encode(self, columns: Columns) -> Array:
        """Places (n, dimension) in the unit cube of the parameters that vary."""
        return np.column_stack(
            [parameter.encode(columns[parameter.name]) for parameter in self.free]
        )

    def default(self) -> Columns:
        """The deck's own point: each parameter's default, or else the middle of its range."""
        columns = self.decode(np.full((1, self.dimension), 0.5))
        for parameter in self.free:
            if parameter.default is not None:
                columns[parameter.name] = np.array(
                    [parameter.default], dtype=columns[parameter.name].dtype
                )
        return columns


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a design is to be made. The same recipe in the same region gives the same points."""

    generator: Generator
    """How the points are chosen."""

    size: int = 0
    """Points to make; 0 for a factorial, whose levels decide."""

    seed: int = 0
    """Of everything random; a factorial ignores it."""

    levels: int = 0
    """Factorial: levels of every real and integer parameter; 0 for `DEFAULT_LEVELS`."""

    parameter_levels: Mapping[str, int] = field(default_factory=dict)
    """Factorial: levels of single parameters, by name."""

    include_default: bool = False
    """Whether the deck's default point is added at the end."""

    def check(self, region: Region) -> None:
        """Raises `InvalidError` with every mistake, before any point is made."""
        violations = Violations()
        if not 0 <= self.seed <= MAX_SEED:
            violations.add("seed", f"{self.seed} is not in 0 to {MAX_SEED}")
        if self.generator is Generator.FULL_FACTORIAL:
            self._check_factorial(region, violations)
        else:
            self._check_sized(region, violations)
        violations.check()

    def _check_sized(self, region: Region, violations: Violations) -> None:
        for name, value in (("levels", self.levels), ("parameter_levels", self.parameter_levels)):
            if value:
                violations.add(name, f"only full_factorial has levels, not {self.generator}")
        if not 1 <= self.size <= MAX_SIZE:
            violations.add("size", f"{self.size} is not from 1 to {max_size(self.generator)}")
        elif self.size * region.dimension > MAX_VALUES:
            violations.add(
                "size",
                f"{self.size} points of {region.dimension} parameters are over the limit of "
                f"{MAX_VALUES} values: ask for at most {MAX_VALUES // region.dimension} points",
            )
        elif self.generator is Generator.LHS_ESE and self.size > ese.MAX_POINTS:
            violations.add(
                "size",
                f"lhs_ese optimises at most {ese.MAX_POINTS} points (its memory grows as the "
                f"square of the size), not {self.size}: use `sobol` or `lhs` for more",
            )

    def _check_factorial(self, region: Region, violations: Violations) -> None:
        free = {parameter.name: parameter for parameter in region.free}
        if self.levels and not 2 <= self.levels <= MAX_LEVELS:
            violations.add("levels", f"{self.levels} is not in 2 to {MAX_LEVELS}")
        for name, count in self.parameter_levels.items():
            path = f"parameter_levels[{name}]"
            if name not in free:
                violations.add(path, f"no such varied parameter{suggest(name, list(free))}")
            elif free[name].choices:
                violations.add(path, "takes all its choices: leave it out")
            elif not 2 <= count <= MAX_LEVELS:
                violations.add(path, f"{count} is not in 2 to {MAX_LEVELS}")
        if violations:
            return
        size = factorial_size(self, region)
        if self.size not in (0, size):
            violations.add(
                "size",
                f"the levels make {size} points, not {self.size}: leave the size out or "
                "change the levels",
            )
        elif size > MAX_SIZE or size * region.dimension > MAX_VALUES:
            violations.add(
                "levels",
                f"the levels make {size:.6g} points of {region.dimension} parameters; at most "
                f"{MAX_SIZE} points and {MAX_VALUES} values may be: use fewer levels, fix "
                "parameters, or choose a space-filling generator such as `sobol`",
            )


@dataclass(frozen=True, kw_only=True)
class Design:
    """A set of points with how it was made. The points are kept as columns."""

    region: Region
    recipe: Recipe

    version: str
    """Of the generator: the same version, recipe and region give the same points bit for bit."""

    columns: Columns
    """One array a parameter, canonical values, all of one length."""

    candidate_count: int
    """Points looked at for the constraints."""

    dropped_count: int
    """Of those, the infeasible ones, which are not part of the design."""

    def __len__(self) -> int:
        return len(self.columns[self.region.space.names[0]])

    def points(self) -> list[Point]:
        """The points in order."""
        return self.region.space.points(self.columns)

    def unit(self) -> Array:
        """Places (n, dimension) in the unit cube of the parameters that vary."""
        return self.region.encode(self.columns)


def level_counts(recipe: Recipe, region: Region) -> list[int]:
    """Levels of each varied parameter; an integer range has no more than its integers."""
    counts = []
    for parameter in region.free:
        if parameter.choices:
            counts.append(len(parameter.choices))
            continue
        count = recipe.parameter_levels.get(parameter.name, recipe.levels or DEFAULT_LEVELS)
        counts.append(min(count, cells(parameter) or count))
    return counts


def cells(parameter: Parameter) -> int | None:
    """How many values a parameter can take; `None` for a real one."""
    if parameter.choices:
        return len(parameter.choices)
    if parameter.kind is Kind.REAL or parameter.low is None or parameter.high is None:
        return None
    return int(parameter.high) - int(parameter.low) + 1


def factorial_size(recipe: Recipe, region: Region) -> int:
    """Points of the full factorial before constraints, computed without making them."""
    return math.prod(level_counts(recipe, region))
