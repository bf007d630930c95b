"""The quality and the cost of designs, against the generators of SciPy in the same run.

    python benchmarks/designs.py [--seeds 9]

Everything is a ratio to a plain Latin hypercube of SciPy of the same size, in the median over
seeds. Less is better for phi_p (Morris and Mitchell, p = 10), the centred discrepancy and the
processor time, more for the distance of the two nearest points.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.stats import qmc

from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.designs.generators import generate, unit_points
from vistaflow_services.designs.quality import distances
from vistaflow_services.designs.recipe import Array, Generator, Recipe, Region

SIZES = ((20, 2), (50, 5), (100, 8), (400, 10))
BIG = (100_000, 50)
Make = Callable[[int, int, int], Array]


def own(generator: Generator) -> Make:
    def make(size: int, dimension: int, seed: int) -> Array:
        region = Region(space=reals(dimension))
        return unit_points(Recipe(generator=generator, size=size, seed=seed), region)

    return make


def scipy_hypercube(optimization: str | None) -> Make:
    def make(size: int, dimension: int, seed: int) -> Array:
        sampler = qmc.LatinHypercube(dimension, optimization=optimization, rng=seed)
        return np.asarray(sampler.random(size))

    return make


BASELINE = "scipy lhs"
GENERATORS: dict[str, Make] = {
    BASELINE: scipy_hypercube(None),
    "scipy lhs random-cd": scipy_hypercube("random-cd"),
    "lhs": own(Generator.LHS),
    "lhs_ese": own(Generator.LHS_ESE),
    "sobol": own(Generator.SOBOL),
    "halton": own(Generator.HALTON),
}


def reals(dimension: int) -> Space:
    names = (f"x{index}" for index in range(dimension))
    return Space(parameters=tuple(Parameter(name=name, low=0.0, high=1.0) for name in names))


def compare(size: int, dimension: int, seeds: int) -> None:
    medians: dict[str, list[float]] = {}
    for name, make in GENERATORS.items():
        figures = []
        for seed in range(seeds):
            begun = time.process_time()
            unit = make(size, dimension, seed)
            spent = time.process_time() - begun
            nearest, phi = distances(unit)
            figures.append((phi, nearest, float(qmc.discrepancy(unit, method="CD")), spent))
        medians[name] = [statistics.median(column) for column in zip(*figures, strict=True)]
    columns = f"{'phi_p':>8}{'nearest':>9}{'discrepancy':>13}{'CPU':>9}"
    print(f"\n{f'{size} points, {dimension} parameters':28}{columns}")
    for name, (phi, nearest, discrepancy, spent) in medians.items():
        base = medians[BASELINE]
        print(
            f"  {name:26}{phi / base[0]:>8.2f}{nearest / base[1]:>9.2f}"
            f"{discrepancy / base[2]:>13.2f}{spent * 1e3:>7.1f}ms"
        )


def large() -> None:
    """A large Sobol design in a space with whole numbers, choices and logarithms."""
    size, dimension = BIG
    parameters = [
        Parameter(
            name=f"r{index}", low=1e-3, high=1e3, scale=Scale.LOG if index % 2 else Scale.LINEAR
        )
        for index in range(dimension - 10)
    ]
    parameters += [
        Parameter(name=f"n{index}", kind=Kind.INTEGER, low=1, high=9) for index in range(5)
    ]
    parameters += [
        Parameter(name=f"c{index}", kind=Kind.CATEGORICAL, choices=("a", "b", "c"))
        for index in range(5)
    ]
    region = Region(space=Space(parameters=tuple(parameters)))
    begun = time.process_time()
    qmc.Sobol(dimension, rng=0).random_base2((size - 1).bit_length())
    bare = time.process_time() - begun
    begun = time.process_time()
    generate(Recipe(generator=Generator.SOBOL, size=size, seed=0), region)
    spent = time.process_time() - begun
    print(
        f"\nsobol, {size:,} points of {dimension} mixed parameters: {spent:.2f} s CPU,"
        f" {spent / bare:.1f} times the bare sequence of SciPy"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=9)
    seeds = parser.parse_args().seeds
    print(f"designs: ratios to {BASELINE}, medians of {seeds} seeds")
    for size, dimension in SIZES:
        compare(size, dimension, seeds)
    large()


if __name__ == "__main__":
    main()
