"""Which simulators this machine has."""

from __future__ import annotations

from dataclasses import dataclass

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.simulators import function_simulator, ngspice_simulator, python_simulator
from vistaflow_services.simulators.sandbox import this_sandbox

_HINTS = {
    "devsim": "pip install 'vistaflow[simulators]'",
    "ngspice": "apt-get install ngspice (Debian, Ubuntu), brew install ngspice (macOS)",
    "function": "",
}


@dataclass(frozen=True, kw_only=True)
class SimulatorStatus:
    """One simulator and whether it can be used here."""

    name: str
    available: bool
    version: str
    """Empty if it is not available."""
    hint: str
    """How it is kept apart from the machine, or how to get it."""


def simulator_status() -> list[SimulatorStatus]:
    """All simulators, by name."""
    found: list[SimulatorStatus] = []
    for name in sorted(_HINTS):
        version = simulator_version(name)
        if not version:
            hint = f"not installed: {_HINTS[name]}"
        elif name == "function":
            hint = "built in"
        else:
            hint = f"each run in {this_sandbox().description}"
            if not this_sandbox().isolated:
                hint = f"each run under {this_sandbox().description}"
        found.append(
            SimulatorStatus(name=name, available=bool(version), version=version, hint=hint)
        )
    return found


def simulator_version(name: str) -> str:
    """The version of a simulator, or nothing if it is not here."""
    if name == "devsim":
        return python_simulator.version()
    if name == "ngspice":
        return ngspice_simulator.version()
    return function_simulator.VERSION if name == "function" else ""


def require_simulator(name: str) -> str:
    """The version of a simulator that must be here.

    Raises:
        UnavailableError: If it is not, saying how to get it.
    """
    version = simulator_version(name)
    if not version:
        if name not in _HINTS:
            raise UnavailableError(f"no simulator is named `{name}`", reason="NO_SIMULATOR")
        raise UnavailableError(
            f"the simulator `{name}` is not installed on this machine; get it with {_HINTS[name]}",
            reason="NO_SIMULATOR",
        )
    return version
