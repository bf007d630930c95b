"""How good a design is, by any generator.

All figures are of the points as they will be run, in the unit cube of the
parameters that vary: after rounding to whole numbers and choices, after constraints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import qmc

from vistaflow_services.designs.ese import PHI_P
from vistaflow_services.designs.recipe import Array, Design, cells

PAIR_LIMIT = 200_000_000
"""Most n * n * d for the figures that look at every pair of points."""

_STRATA = 100


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How one parameter's range is used."""

    parameter: str

    distinct_count: int
    """Different values."""

    covered: float
    """Part of the range's equal slices (at most 100, or one a value it can take) that have a point,
    of those that could have one; 1 is best."""

    largest_gap: float
    """Longest empty stretch, ends included, as a part of the range."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures of one design; `None` where a figure does not exist or costs too much."""

    centred_discrepancy: float | None
    """Unevenness over the whole cube (F. J. Hickernell 1998, squared); lower is better."""

    minimum_distance: float | None
    """Between the two nearest points; higher is better."""

    phi_p: float | None
    """Morris and Mitchell's criterion, p = 10; lower is better; infinite if points coincide."""

    max_correlation: float | None
    """Largest absolute correlation between two parameters; lower is better."""

    distinct_count: int
    """Points that differ from every other."""

    coverage: tuple[Coverage, ...] = ()

    notes: tuple[str, ...] = field(default=())
    """What is missing and why."""

    def figures(self) -> dict[str, float]:
        """The figures that exist, by name; infinity is left out, for JSON has none."""
        named = {
            "centred_discrepancy": self.centred_discrepancy,
            "minimum_distance": self.minimum_distance,
            "phi_p": self.phi_p,
            "max_correlation": self.max_correlation,
            "distinct_points": float(self.distinct_count),
        }
        covered = [coverage.covered for coverage in self.coverage]
        if covered:
            named["least_coverage"] = min(covered)
        return {
            name: value for name, value in named.items() if value is not None and np.isfinite(value)
        }

    def to_dict(self) -> dict[str, object]:
        """As JSON-able values: the figures, the coverage by parameter, the notes."""
        return {
            **self.figures(),
            "coverage": {
                coverage.parameter: {
                    "distinct_values": coverage.distinct_count,
                    "covered": round(coverage.covered, 6),
                    "largest_gap": round(coverage.largest_gap, 6),
                }
                for coverage in self.coverage
            },
            "notes": list(self.notes),
        }


def assess(design: Design) -> Quality:
    """The quality figures of `design`."""
    unit = design.unit()
    count, dimension = unit.shape
    notes: list[str] = []
    discrepancy = distance = phi = None
    if count < 2:
        notes.append("a single point has no distances")
    elif count * count * dimension > PAIR_LIMIT:
        notes.append(
            f"discrepancy and distances look at every pair: left out for {count} points of "
            f"{dimension} parameters, over the limit of {PAIR_LIMIT} products"
        )
    else:
        discrepancy = float(qmc.discrepancy(np.clip(unit, 0.0, 1.0), method="CD"))
        distance, phi = distances(unit)
        if distance == 0:
            distinct = len(np.unique(unit, axis=0))
            notes.append(
                f"some points coincide: {count} rows hold {distinct} different points, and each of "
                "them is run once"
            )
    coverage = tuple(
        _coverage(parameter.name, unit[:, index], cells(parameter))
        for index, parameter in enumerate(design.region.free)
    )
    return Quality(
        centred_discrepancy=discrepancy,
        minimum_distance=distance,
        phi_p=phi,
        max_correlation=max_correlation(unit),
        distinct_count=len(np.unique(unit, axis=0)),
        coverage=coverage,
        notes=tuple(notes),
    )


def distances(unit: Array) -> tuple[float, float]:
    """The minimum distance and phi_p of points (n, d), n >= 2, in memory of one row of pairs."""
    smallest, total = np.inf, 0.0
    for first in range(len(unit) - 1):
        gap = unit[first + 1 :] - unit[first]
        squared = np.einsum("ij,ij->i", gap, gap)
        smallest = min(smallest, float(squared.min()))
        if smallest == 0:
            return 0.0, float("inf")
        total += float((squared ** (-PHI_P / 2)).sum())
    return float(np.sqrt(smallest)), float(total ** (1 / PHI_P))


def max_correlation(unit: Array) -> float | None:
    """The largest absolute correlation between columns; columns of one value do not count."""
    varied = unit[:, np.ptp(unit, axis=0) > 0] if len(unit) else unit
    if len(varied) < 3 or varied.shape[1] < 2:
        return None
    matrix = np.abs(np.corrcoef(varied, rowvar=False))
    np.fill_diagonal(matrix, 0.0)
    return float(min(matrix.max(), 1.0))


def _coverage(name: str, places: Array, possible: int | None) -> Coverage:
    values = np.unique(places)
    slices = min(possible or len(places), _STRATA)
    hit = len(np.unique(np.minimum((values * slices).astype(np.int64), slices - 1)))
    edges = np.concatenate([[0.0], values, [1.0]])
    return Coverage(
        parameter=name,
        distinct_count=len(values),
        covered=hit / min(slices, len(places)),
        largest_gap=float(np.diff(edges).max()),
    )
