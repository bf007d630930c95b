"""A 2-D n-channel MOSFET by drift-diffusion in DEVSIM: one point in, its figures of merit out.

Device: bulk silicon, metallurgical gate length L, n+ polysilicon gate taken as a metal of its work
function on SiO2, uniform body doping, Gaussian source and drain wells with contacts on the
surface outside the spacers and a body contact below the depletion region. Source and body are at
0 V. All currents are per micrometre of gate width.

Models, at 300 K:

* Poisson's equation in silicon and oxide, electron continuity by Scharfetter-Gummel fluxes;
  holes in equilibrium with the body (no hole current flows in an n-MOSFET below breakdown), so
  neither recombination nor junction leakage by generation: `ioff` is subthreshold and
  punch-through current (S. Selberherr, "Analysis and Simulation of Semiconductor Devices",
  Springer 1984, chapters 2 and 6).
* Boltzmann statistics, n_i = 1.0e10 cm^-3.
* Electron mobility: doping dependence of N. D. Arora, J. R. Hauser and D. J. Roulston, IEEE Trans.
  Electron Devices 29 (1982) 292, and velocity saturation with beta = 2 of D. M. Caughey and R. E.
  Thomas, Proc. IEEE 55 (1967) 2192, driven by the field along each mesh edge.
* Not modelled: quantum confinement, gate tunnelling, surface scattering, band-gap narrowing.

Numbers: threshold voltage is by constant current (100 nA times W/L) at a drain bias of 50 mV; `ion`
and `ioff` at a drain bias of 1.2 V with the gate at 1.2 V and 0 V; swing is the mean slope between
1e-1 and 1e-2.5 of the threshold current at a drain bias of 1.2 V; `dibl` is the shift of the
threshold between both drain biases. Gate voltages at a given current are found by a secant in
log(I), not by interpolation on a grid, and the mesh has the same lines at every point, whose
positions are smooth functions of the parameters: responses are smooth, as a surrogate needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import devsim
from device import (
    BULK,
    CHARGE,
    DEVICE,
    GATE_OFFSET,
    GATE_OXIDE,
    INTRINSIC,
    NM,
    OXIDE,
    SILICON,
    SUPPLY,
    THERMAL,
    add_electrons,
    build_mesh,
    build_physics,
)

LINEAR = 0.05  # V
THRESHOLD_CURRENT = 1e-7  # A times W/L
FIELDS = ((BULK, "Potential"), (GATE_OXIDE, "Potential"), (BULK, "Electrons"))
MAX_STEP = 0.3  # V
MIN_STEP = 1e-3  # V
RELATIVE = 1e-3

Fields = list[list[float]]


class NoConvergence(Exception):
    """No bias step, however small, brought Newton's method to an end."""


def simulate(point: Mapping[str, float]) -> dict[str, float]:
    """Simulates one transistor.

    Args:
        point: `gate_length` nm, `oxide_thickness` nm, `channel_doping` cm^-3, `source_doping` cm^-3
            (source and drain), `junction_depth` nm.

    Returns:
        `vth` V, `ion` A/um, `ioff` A/um, `swing` mV/decade, `dibl` mV/V.

    Raises:
        NoConvergence: A bias point could not be reached.
    """
    length = float(point["gate_length"]) * NM
    oxide = float(point["oxide_thickness"]) * NM
    channel = float(point["channel_doping"])
    wells = float(point["source_doping"])
    depth = float(point["junction_depth"]) * NM
    build_mesh(length, oxide, channel, wells, depth)
    build_physics()
    sweep = Sweep()
    sweep.start(guess_threshold(oxide, channel) - 0.1)
    target = math.log(THRESHOLD_CURRENT / (length * 1e4))
    decade = math.log(10.0)

    linear = sweep.gate_at(target)
    sweep.move("drain", SUPPLY)
    saturated = sweep.gate_at(target)
    saturated_state = sweep.state()
    upper = sweep.gate_at(target - decade)
    lower = sweep.gate_at(target - 2.5 * decade)
    sweep.move("gate", 0.0)
    off = sweep.current()
    if saturated > 0.0 or upper > 0.0:
        sweep.restore(saturated_state)
    sweep.move("gate", SUPPLY)
    return {
        "vth": linear,
        "ion": sweep.current(),
        "ioff": off,
        "swing": 1e3 * (upper - lower) / 1.5,
        "dibl": 1e3 * (linear - saturated) / (SUPPLY - LINEAR),
    }


def guess_threshold(oxide: float, channel: float) -> float:
    """The long-channel threshold, V: where to begin looking."""
    fermi = THERMAL * math.log(channel / INTRINSIC)
    bulk_charge = math.sqrt(4 * CHARGE * SILICON * channel * fermi)
    return -GATE_OFFSET + fermi + bulk_charge * oxide / OXIDE


class Sweep:
    """The device at one bias after another, each solution begun from those before."""

    def __init__(self) -> None:
        self.bias = {"gate": 0.0, "drain": 0.0}
        self._before: tuple[str, float, Fields] | None = None
        """The solution before the present one, if only the bias of one contact differs."""

    def start(self, gate: float) -> None:
        """Solves equilibrium at `gate`, then raises the drain to its small bias."""
        self.bias["gate"] = gate
        self._solve(iterations=60)
        add_electrons()
        self._solve(iterations=60)
        self.move("drain", LINEAR)

    def current(self) -> float:
        """The drain's electron current, A per um of width."""
        return 1e-4 * abs(
            devsim.get_contact_current(device=DEVICE, contact="drain", equation="Continuity")
        )

    def state(self) -> tuple[dict[str, float], Fields]:
        """What `restore` needs to come back to this bias."""
        return dict(self.bias), fields()

    def restore(self, state: tuple[dict[str, float], Fields]) -> None:
        """Comes back to the bias of `state`."""
        self.bias = dict(state[0])
        self._before = None
        set_fields(state[1])

    def move(self, contact: str, target: float) -> None:
        """Brings a contact to `target` in steps as large as converge."""
        step = MAX_STEP
        if self._before is not None and self._before[0] != contact:
            self._before = None
        while abs(self.bias[contact] - target) > 1e-12:
            here, present = self.bias[contact], fields()
            delta = max(-step, min(step, target - here))
            if self._before is not None:
                _, earlier, old = self._before
                set_fields(extrapolate(old, present, delta / (here - earlier)))
            self.bias[contact] = here + delta
            try:
                self._solve(iterations=20)
                self._before = (contact, here, present)
            except NoConvergence:
                self.bias[contact] = here
                set_fields(present)
                self._before = None
                step = 0.5 * abs(delta)
                if step < MIN_STEP:
                    raise

    def gate_at(self, target: float, tolerance: float = 2e-3) -> float:
        """The gate voltage at which log(I) is `target`: a secant from the present bias.

        The last, small remainder is not solved for but read off the secant; log(I) is so nearly
        straight over it that the voltage is right to about a microvolt.
        """
        gate, logarithm = self.bias["gate"], math.log(self.current())
        slope = 0.7 / THERMAL
        for _ in range(30):
            if abs(logarithm - target) < tolerance:
                return gate + (target - logarithm) / slope
            self.move("gate", gate + max(-0.4, min(0.25, (target - logarithm) / slope)))
            at, reached = self.bias["gate"], math.log(self.current())
            slope = max((reached - logarithm) / (at - gate), 1.0)
            gate, logarithm = at, reached
        raise NoConvergence("the threshold current was not found")

    def _solve(self, iterations: int) -> None:
        for contact, value in self.bias.items():
            devsim.set_parameter(device=DEVICE, name=f"{contact}_bias", value=value)
        try:
            devsim.solve(
                type="dc",
                solver_type="direct",
                absolute_error=1e30,
                relative_error=RELATIVE,
                maximum_iterations=iterations,
                maximum_divergence=iterations,
            )
        except devsim.error as error:
            at = ", ".join(f"{contact} {value:.3f} V" for contact, value in self.bias.items())
            raise NoConvergence(f"no convergence at {at}") from error


def fields() -> Fields:
    """The present solution: potential in silicon and oxide, electrons."""
    return [
        list(devsim.get_node_model_values(device=DEVICE, region=region, name=name))
        for region, name in FIELDS
    ]


def set_fields(values: Fields) -> None:
    """Makes `values` the present solution."""
    for (region, name), each in zip(FIELDS, values, strict=True):
        devsim.set_node_values(device=DEVICE, region=region, name=name, values=each)


def extrapolate(old: Fields, new: Fields, ratio: float) -> Fields:
    """A guess on the line through two solutions; electrons in their logarithm."""
    guess = [
        [after + ratio * (after - before) for before, after in zip(*pair, strict=True)]
        for pair in zip(old[:2], new[:2], strict=True)
    ]
    electrons = [
        after * min((after / before) ** ratio, 1e6) if before > 0 and after > 0 else after
        for before, after in zip(old[2], new[2], strict=True)
    ]
    return [*guess, electrons]
