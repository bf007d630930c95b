"""Makes designs: factorial, Latin hypercube, Sobol, Halton, in any space.

Everything works in the unit cube; the space turns it into values. Where a space
has constraints, infeasible points are never part of a design: a factorial leaves
them out, sequences go on until enough points are feasible, and Latin hypercubes
are chosen from many feasible candidates so that they stay apart. A space that has no more
points than are asked for is tried whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from vistaflow_services.core.errors import InvalidError, field_error
from vistaflow_services.decks.cells import every_point
from vistaflow_services.decks.space import Columns, Kind, Parameter
from vistaflow_services.designs import ese, spread
from vistaflow_services.designs.recipe import (
    MAX_VALUES,
    Array,
    Design,
    Generator,
    Recipe,
    Region,
    cells,
    level_counts,
)

VERSIONS = {
    Generator.FULL_FACTORIAL: "full_factorial/1",
    Generator.LHS: f"lhs/1 numpy/{np.__version__}",
    Generator.LHS_ESE: f"lhs_ese/1 numpy/{np.__version__}",
    Generator.SOBOL: f"sobol/1 scipy/{scipy.__version__}",
    Generator.HALTON: f"halton/1 scipy/{scipy.__version__}",
}
"""What makes the points, named in every design: other points need another version.

NumPy's random permutations and SciPy's scrambling may change with their releases.
"""

MIN_DRAWS = 100_000
"""Candidates drawn at least before the constraints count as impossible."""

DRAWS_PER_POINT = 200
"""Candidates drawn for each point wanted before the constraints count as impossible."""

_BLOCK = 65_536
_CHOICE = 8
"""Feasible candidates for each point of a constrained Latin hypercube."""


def generate(recipe: Recipe, region: Region) -> Design:
    """Makes the design of `recipe` in `region`.

    Raises:
        InvalidError: The recipe does not fit the region, is over a limit, or the
            constraints leave too few points; each mistake names its field.
    """
    recipe.check(region)
    every = None
    if recipe.generator is not Generator.FULL_FACTORIAL:
        every = every_point(region.space, region.fixed)
    if recipe.generator is Generator.FULL_FACTORIAL:
        design = _factorial(recipe, region)
    elif every is not None and 0 < len(every[region.space.names[0]]) <= recipe.size:
        design = _exhaustive(recipe, region, every)
    elif region.space.constraints:
        design = _constrained(recipe, region)
    else:
        columns = region.decode(unit_points(recipe, region))
        design = _design(recipe, region, columns, looked_at=recipe.size, dropped=0)
    return _with_default(design) if recipe.include_default else design


def check_feasible(recipe: Recipe, region: Region) -> None:
    """Raises `InvalidError` if no point of a sample meets the constraints.

    A factorial has only few places to look at: it is left to `generate`.
    """
    if region.space.constraints and recipe.generator is not Generator.FULL_FACTORIAL:
        _feasible(replace(recipe, size=1, generator=Generator.LHS), region, 1)
    if recipe.include_default:
        _check_default(region)


def unit_points(recipe: Recipe, region: Region) -> Array:
    """Shape (size, dimension): the points of a random generator without constraints."""
    if recipe.generator in (Generator.SOBOL, Generator.HALTON):
        return next(_sequence(recipe, region.dimension))[: recipe.size]
    unit = latin_hypercube(recipe.size, region.dimension, seed=recipe.seed)
    if recipe.generator is Generator.LHS:
        return unit
    # Whole numbers and choices are moved to their cells' centres first, so that the
    # distances optimised are those between the points that will be run.
    for index, parameter in enumerate(region.free):
        if parameter.kind is not Kind.REAL:
            unit[:, index] = parameter.encode(parameter.decode(unit[:, index]))
    return ese.optimise(unit, seed=recipe.seed)


def latin_hypercube(size: int, dimension: int, *, seed: int, part: int = 0) -> Array:
    """Shape (size, dimension): one point in each of `size` equal slices of every range."""
    rng = np.random.default_rng([seed, part])
    columns = np.empty((dimension, size))
    for column in columns:
        column[:] = rng.permutation(size)
        column += rng.random(size)
    columns /= size
    return columns.T


def _sequence(recipe: Recipe, dimension: int) -> Iterator[Array]:
    """Blocks of a low-discrepancy sequence without end; the first has `size` points or more."""
    rng = np.random.default_rng(recipe.seed)
    following = min(max(recipe.size, 1024), _BLOCK)
    if recipe.generator is Generator.HALTON:
        sequence = scipy.stats.qmc.Halton(dimension, scramble=True, rng=rng)
        yield sequence.random(recipe.size)
    else:
        # Sobol is balanced in powers of two only, and SciPy warns of any other first
        # block: the first is rounded up, a prefix of it is used.
        sequence = scipy.stats.qmc.Sobol(dimension, scramble=True, rng=rng)
        yield sequence.random_base2((recipe.size - 1).bit_length())
    while True:
        yield sequence.random(following)


def _candidates(recipe: Recipe, dimension: int) -> Iterator[Array]:
    """Candidates for rejection without end, in blocks."""
    if recipe.generator in (Generator.SOBOL, Generator.HALTON):
        yield from _sequence(recipe, dimension)
    size = min(max(recipe.size, 256), _BLOCK)
    part = 0
    while True:
        yield latin_hypercube(size, dimension, seed=recipe.seed, part=part)
        part += 1


def _constrained(recipe: Recipe, region: Region) -> Design:
    """Feasible points only; of Latin hypercubes those that lie far apart."""
    hypercube = recipe.generator in (Generator.LHS, Generator.LHS_ESE)
    choose = hypercube and recipe.size <= ese.MAX_POINTS
    count = _CHOICE * recipe.size if choose else recipe.size
    columns, looked_at, feasible_count = _feasible(recipe, region, count)
    if choose:
        unit = region.encode(columns)
        chosen = spread.farthest(unit, recipe.size)
        if recipe.generator is Generator.LHS_ESE:
            chosen = spread.improve(unit, chosen, seed=recipe.seed)
        columns = {name: column[chosen] for name, column in columns.items()}
    else:
        columns = {name: column[: recipe.size] for name, column in columns.items()}
    return _design(recipe, region, columns, looked_at=looked_at, dropped=looked_at - feasible_count)


def _feasible(recipe: Recipe, region: Region, count: int) -> tuple[Columns, int, int]:
    """Up to `wanted` feasible points, at least `size`; how many were looked at and found."""
    most = min(max(MIN_DRAWS, DRAWS_PER_POINT * recipe.size), MAX_VALUES)
    parts: list[Columns] = []
    looked_at = feasible_count = 0
    for block in _candidates(recipe, region.dimension):
        columns = region.decode(block)
        met = region.space.feasible_columns(columns)
        parts.append({name: column[met] for name, column in columns.items()})
        looked_at += len(block)
        feasible_count += int(met.sum())
        if feasible_count >= count or (looked_at >= most and feasible_count >= recipe.size):
            break
        if looked_at >= most:
            raise _impossible(region, feasible_count=feasible_count, looked_at=looked_at)
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return merged, looked_at, feasible_count


def _factorial(recipe: Recipe, region: Region) -> Design:
    """All combinations of levels, the last parameter fastest, those not feasible left out."""
    levels = [
        _level_values(parameter, count)
        for parameter, count in zip(region.free, level_counts(recipe, region), strict=True)
    ]
    shape = [len(values) for values in levels]
    size = math.prod(shape)
    parts: list[Columns] = []
    for start in range(0, size, _BLOCK):
        rows = np.unravel_index(np.arange(start, min(start + _BLOCK, size)), shape)
        columns = region.complete(
            {
                parameter.name: values[row]
                for parameter, values, row in zip(region.free, levels, rows, strict=True)
            }
        )
        met = region.space.feasible_columns(columns)
        parts.append({name: column[met] for name, column in columns.items()})
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    feasible_count = len(merged[region.free[0].name])
    if not feasible_count:
        raise _impossible(region, feasible_count=0, looked_at=size)
    return _design(recipe, region, merged, looked_at=size, dropped=size - feasible_count)


def _level_values(parameter: Parameter, count: int) -> NDArray[Any]:
    """The levels of one parameter, evenly spaced on its scale, both ends included."""
    if parameter.choices:
        return parameter.decode((np.arange(count) + 0.5) / count)
    # The outermost whole numbers lie half a cell inside the unit interval.
    edge = 0.5 / (cells(parameter) or math.inf)
    return parameter.decode(np.linspace(edge, 1 - edge, count))


def _exhaustive(recipe: Recipe, region: Region, every: Columns) -> Design:
    """Every point of a space that has no more than were asked for, each about as often.

    A random design of that size would miss some of them. The order is random, so that each part of
    it is spread out.
    """
    count = len(every[region.space.names[0]])
    rng = np.random.default_rng(recipe.seed)
    rounds = -(-recipe.size // count)
    rows = np.concatenate([rng.permutation(count) for _ in range(rounds)])[: recipe.size]
    columns = {name: column[rows] for name, column in every.items()}
    design = _design(recipe, region, columns, looked_at=recipe.size, dropped=0)
    return replace(design, version=f"every_point/1 numpy/{np.__version__}")


def _with_default(design: Design) -> Design:
    """The design with the deck's default point as its last."""
    default = _check_default(design.region)
    columns = {
        name: np.concatenate([column, default[name]]) for name, column in design.columns.items()
    }
    return replace(design, columns=columns)


def _check_default(region: Region) -> Columns:
    default = region.default()
    if not region.space.feasible_columns(default)[0]:
        raise field_error(
            "include_default",
            "the default point does not meet the constraints: leave it out, or change one of them",
        )
    return default


def _design(
    recipe: Recipe, region: Region, columns: Columns, *, looked_at: int, dropped: int
) -> Design:
    return Design(
        region=region,
        recipe=recipe,
        version=VERSIONS[recipe.generator],
        columns=columns,
        candidate_count=looked_at,
        dropped_count=dropped,
    )


def _impossible(region: Region, *, feasible_count: int, looked_at: int) -> InvalidError:
    """Names the constraint that the fewest points meet, tried on an even sample."""
    sample = region.decode(latin_hypercube(4096, region.dimension, seed=0))
    shares = [float(np.mean(constraint.met(sample))) for constraint in region.space.constraints]
    hardest = int(np.argmin(shares))
    few = f"only {feasible_count}" if feasible_count else "none"
    return field_error(
        f"constraints[{hardest}]",
        f"{few} of {looked_at} points tried meet the constraints; the hardest to meet is "
        f"`{region.space.constraints[hardest]}`, by {shares[hardest]:.2%} of the space: "
        "loosen it, change the ranges, or ask for fewer points",
    )
