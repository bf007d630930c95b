"""The generators, for people who choose one."""

from __future__ import annotations

from dataclasses import dataclass

from vistaflow_services.designs.recipe import MAX_SIZE, Generator, max_size


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one generator can do."""

    description: str
    """What it is good at."""

    source: str
    """Where the method is published."""

    sized: bool = True
    """Whether the caller chooses the size; else it follows from the levels."""

    max_size: int = MAX_SIZE
    """Most points it makes."""

    seeded: bool = True
    """Whether the seed changes the design."""


CATALOG = {
    Generator.FULL_FACTORIAL: Entry(
        description="Every combination of levels: few parameters, main effects and interactions. "
        "Grows as the product of the levels.",
        source="R. A. Fisher, The Design of Experiments (1935)",
        sized=False,
        seeded=False,
    ),
    Generator.LHS: Entry(
        description="Random Latin hypercube: every parameter's range is evenly used, at any size.",
        source="M. D. McKay, R. J. Beckman, W. J. Conover, Technometrics 21 (1979) 239-245",
    ),
    Generator.LHS_ESE: Entry(
        description="Latin hypercube optimised to keep its points apart: the best start for a "
        "surrogate.",
        source="R. Jin, W. Chen, A. Sudjianto, J. Stat. Planning and Inference 134 (2005) 268-287",
        max_size=max_size(Generator.LHS_ESE),
    ),
    Generator.SOBOL: Entry(
        description="Scrambled Sobol sequence: the most even from about 1000 points on; best at "
        "powers of two.",
        source="I. M. Sobol', USSR Comp. Math. 7 (1967) 86-112; A. B. Owen's scrambling (1998)",
    ),
    Generator.HALTON: Entry(
        description="Scrambled Halton sequence: even at any size, for up to about 20 parameters.",
        source="J. H. Halton, Numer. Math. 2 (1960) 84-90; A. B. Owen, arXiv:1706.02808 (2017)",
    ),
}
"""An entry for each generator."""
