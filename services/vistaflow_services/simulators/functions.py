"""Named analytic functions: simulators that cost nothing, with optima that are known.

Those without another source are described in S. Surjanovic and D. Bingham, "Virtual Library of
Simulation Experiments: Test Functions and Datasets", Simon Fraser University
(https://www.sfu.ca/~ssurjano), with their ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Compute = Callable[..., Mapping[str, Array]]


@dataclass(frozen=True, kw_only=True)
class NamedFunction:
    """A function of columns, vectorised over points."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Compute
    """Takes the inputs in their order, each (n,), and returns the outputs by name, each (n,)."""
    source: str


FUNCTIONS: Final[dict[str, NamedFunction]] = {}
"""All functions that a deck may name."""


def _named(inputs: str, outputs: str, source: str) -> Callable[[Compute], Compute]:
    def register(compute: Compute) -> Compute:
        name = compute.__name__
        FUNCTIONS[name] = NamedFunction(
            name=name,
            inputs=tuple(inputs.split()),
            outputs=tuple(outputs.split()),
            compute=compute,
            source=source,
        )
        return compute

    return register


@_named("rw r tu hu tl hl l kw", "flow", "Morris, Mitchell, Ylvisaker, Technometrics 35 (1993) 243")
def borehole(
    rw: Array,
    r: Array,
    tu: Array,
    hu: Array,
    tl: Array,
    hl: Array,
    length: Array,
    kw: Array,
) -> dict[str, Array]:
    """Water through a borehole, m^3/yr.

    Radii `rw` of the hole and `r` of influence in m, transmissivities `tu`, `tl` of the upper and
    lower aquifer in m^2/yr, their heads `hu`, `hl` in m, length `l` in m, conductivity
    `kw` in m/yr.
    """
    log_ratio = np.log(r / rw)
    leak = 2 * length * tu / (log_ratio * rw**2 * kw)
    return {"flow": 2 * np.pi * tu * (hu - hl) / (log_ratio * (1 + leak + tu / tl))}


@_named(
    "h l t b",
    "cost tau sigma deflection pc",
    "Ragsdell, Phillips, J. Eng. Ind. 98 (1976) 1021; as in Coello, Comput. Ind. 41 (2000) 113",
)
def welded_beam(h: Array, length: Array, t: Array, b: Array) -> dict[str, Array]:
    """A beam welded to a wall, loaded with 6000 lbf at 14 in; lengths in inches.

    Weld thickness `h` and length `l`, beam height `t` and width `b`. Returns the cost, shear stress
    `tau` in the weld and bending stress `sigma` in psi, `deflection` in inches, buckling load `pc`
    in lbf. With tau <= 13600, sigma <= 30000, h <= b, deflection <= 0.25, pc >= 6000, h >= 0.125
    the least cost is 1.724852 at (0.205730, 3.470489, 9.036624, 0.205730).
    """
    load, arm, young, shear = 6000.0, 14.0, 30e6, 12e6
    moment = load * (arm + length / 2)
    radius = np.sqrt(length**2 / 4 + ((h + t) / 2) ** 2)
    polar = 2 * np.sqrt(2) * h * length * (length**2 / 12 + ((h + t) / 2) ** 2)
    primary = load / (np.sqrt(2) * h * length)
    secondary = moment * radius / polar
    tau = np.sqrt(primary**2 + primary * secondary * length / radius + secondary**2)
    slender = t / (2 * arm) * np.sqrt(young / (4 * shear))
    return {
        "cost": 1.10471 * h**2 * length + 0.04811 * t * b * (14 + length),
        "tau": tau,
        "sigma": 6 * load * arm / (b * t**2),
        "deflection": 4 * load * arm**3 / (young * t**3 * b),
        "pc": 4.013 * young * np.sqrt(t**2 * b**6 / 36) / arm**2 * (1 - slender),
    }


@_named("x1 x2", "y", "Dixon, Szego, Towards Global Optimization 2 (1978) 1")
def branin(x1: Array, x2: Array) -> dict[str, Array]:
    """Three equal minima of 0.397887 on [-5, 10] x [0, 15], one at (pi, 2.275)."""
    valley = x2 - 5.1 / (4 * np.pi**2) * x1**2 + 5 / np.pi * x1 - 6
    return {"y": valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x1) + 10}


_HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_WIDTHS = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_PLACES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


@_named("x1 x2 x3 x4 x5 x6", "y", "Dixon, Szego, Towards Global Optimization 2 (1978) 1")
def hartmann6(*x: Array) -> dict[str, Array]:
    """Six minima in the unit cube, the least -3.32237."""
    points = np.stack(x, axis=-1)
    exponents = np.einsum("kj,nkj->nk", _WIDTHS, (points[:, None, :] - _PLACES) ** 2)
    return {"y": -(np.exp(-exponents) @ _HEIGHTS)}


@_named("rb1 rb2 rf rc1 rc2 beta", "vm", "Ben-Ari, Steinberg, Quality Engineering 19 (2007) 327")
def otl(rb1: Array, rb2: Array, rf: Array, rc1: Array, rc2: Array, beta: Array) -> dict[str, Array]:
    """Midpoint voltage of an output-transformerless push-pull circuit, V; resistors in kilo-ohm."""
    base = 12 * rb2 / (rb1 + rb2)
    gain = beta * (rc2 + 9)
    total = gain + rf
    return {
        "vm": (base + 0.74) * gain / total + 11.35 * rf / total + 0.74 * rf * gain / (total * rc1)
    }


@_named("m s v0 k p0 ta t0", "cycle", "Kenett, Zacks, Modern Industrial Statistics (1998)")
def piston(
    m: Array, s: Array, v0: Array, k: Array, p0: Array, ta: Array, t0: Array
) -> dict[str, Array]:
    """Time of one cycle of a piston, s.

    Weight `m` kg, surface `s` m^2, initial gas volume `v0` m^3, spring `k` N/m, pressure `p0`
    N/m^2, ambient and filling temperatures `ta`, `t0` K.
    """
    force = p0 * s + 19.62 * m - k * v0 / s
    gas = p0 * v0 / t0 * ta
    volume = s / (2 * k) * (np.sqrt(force**2 + 4 * k * gas) - force)
    return {"cycle": 2 * np.pi * np.sqrt(m / (k + s**2 * gas / volume**2))}


@_named(
    "sw wfw a sweep q taper tc nz wdg wp",
    "weight",
    "Forrester, Sobester, Keane, Engineering Design via Surrogate Modelling (2008)",
)
def wing(
    sw: Array,
    wfw: Array,
    a: Array,
    sweep: Array,
    q: Array,
    taper: Array,
    tc: Array,
    nz: Array,
    wdg: Array,
    wp: Array,
) -> dict[str, Array]:
    """Weight of a light aircraft's wing, lb.

    Area `sw` ft^2, fuel `wfw` lb, aspect ratio `a`, quarter-chord sweep in degrees, dynamic
    pressure `q` lb/ft^2, taper ratio, thickness to chord `tc`, load factor `nz`, design weight
    `wdg` lb, paint `wp` lb/ft^2.
    """
    cosine = np.cos(np.radians(sweep))
    shape = (a / cosine**2) ** 0.6 * taper**0.04 * (100 * tc / cosine) ** -0.3
    frame = 0.036 * sw**0.758 * wfw**0.0035 * q**0.006 * (nz * wdg) ** 0.49
    return {"weight": frame * shape + sw * wp}


@_named(
    "b m z l1 l2 d1 d2",
    "weight g1 g2 g3 g4 g5 g6 g7 g8 g9 g10 g11",
    "Golinski, J. Mechanisms 5 (1970) 287",
)
def speed_reducer(
    b: Array, m: Array, z: Array, l1: Array, l2: Array, d1: Array, d2: Array
) -> dict[str, Array]:
    """Weight of a gear box; face width `b`, module `m`, teeth `z`, shafts `l1 l2 d1 d2` in cm.

    A design is sound where all of g1 to g11 are at most 0; the least sound weight is 2994.4711 at
    (3.5, 0.7, 17, 7.3, 7.715320, 3.350215, 5.286654).
    """
    weight = (
        0.7854 * b * m**2 * (3.3333 * z**2 + 14.9334 * z - 43.0934)
        - 1.508 * b * (d1**2 + d2**2)
        + 7.4777 * (d1**3 + d2**3)
        + 0.7854 * (l1 * d1**2 + l2 * d2**2)
    )
    constraints = (
        27 / (b * m**2 * z) - 1,
        397.5 / (b * m**2 * z**2) - 1,
        1.93 * l1**3 / (m * z * d1**4) - 1,
        1.93 * l2**3 / (m * z * d2**4) - 1,
        np.sqrt((745 * l1 / (m * z)) ** 2 + 16.9e6) / (110 * d1**3) - 1,
        np.sqrt((745 * l2 / (m * z)) ** 2 + 157.5e6) / (85 * d2**3) - 1,
        m * z / 40 - 1,
        5 * m / b - 1,
        b / (12 * m) - 1,
        (1.5 * d1 + 1.9) / l1 - 1,
        (1.1 * d2 + 1.9) / l2 - 1,
    )
    return {"weight": weight} | {
        f"g{index}": constraint for index, constraint in enumerate(constraints, start=1)
    }


@_named(
    "ts th r l",
    "cost shell head volume",
    "Sandgren, J. Mech. Des. 112 (1990) 223; as in Coello, Comput. Ind. 41 (2000) 113",
)
def pressure_vessel(ts: Array, th: Array, r: Array, length: Array) -> dict[str, Array]:
    """A cylinder with two heads; thicknesses `ts`, `th` of shell and head, radius, length; inches.

    Returns the cost, what `shell` and `head` lack in thickness (at most 0 if sound) and the volume
    in cubic inches, which must be at least 1296000. With l <= 240 and continuous thicknesses the
    least cost is 5885.33.
    """
    return {
        "cost": 0.6224 * ts * r * length
        + 1.7781 * th * r**2
        + 3.1661 * ts**2 * length
        + 19.84 * ts**2 * r,
        "shell": 0.0193 * r - ts,
        "head": 0.00954 * r - th,
        "volume": np.pi * r**2 * length + 4 / 3 * np.pi * r**3,
    }
