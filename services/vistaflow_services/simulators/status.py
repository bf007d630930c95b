"""Which simulators this machine has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vistaflow_services.core.errors import InvalidError, UnavailableError
from vistaflow_services.decks.deck import Deck
from vistaflow_services.simulators import function_simulator, python_simulator
from vistaflow_services.simulators.bridges.registered import (
    PROGRAMS,
    SERVERS,
    folder_identity,
    programs,
    servers,
)
from vistaflow_services.simulators.ngspice import simulator
from vistaflow_services.simulators.ngspice.models import folders_of
from vistaflow_services.simulators.processes.sandbox import this_sandbox

_HINTS = {
    "devsim": "pip install 'vistaflow[simulators]'",
    "ngspice": "apt-get install ngspice (Debian, Ubuntu), brew install ngspice (macOS)",
    "function": "",
    "python": "",
    "table": "",
    "command": f"the operator registers programs in {PROGRAMS}",
    "grpc": f"the operator registers servers in {SERVERS}",
}

_REGISTERED: Mapping[str, Callable[[], Mapping[str, object]]] = {
    "command": programs,
    "grpc": servers,
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
    statuses: list[SimulatorStatus] = []
    for name in sorted(_HINTS):
        try:
            version = simulator_version(name)
        except InvalidError as error:
            status = SimulatorStatus(name=name, available=False, version="", hint=error.message)
            statuses.append(status)
            continue
        if name in _REGISTERED:
            names = ", ".join(sorted(_REGISTERED[name]())) or f"none; {_HINTS[name]}"
            hint = f"registered: {names}"
        elif not version:
            hint = f"not installed: {_HINTS[name]}"
        elif name in ("function", "table"):
            hint = "built in"
        else:
            hint = f"each run in {this_sandbox().description}"
            if not this_sandbox().isolated:
                hint = f"each run under {this_sandbox().description}"
        statuses.append(
            SimulatorStatus(name=name, available=bool(version), version=version, hint=hint)
        )
    return statuses


def simulator_version(name: str) -> str:
    """The version of a simulator, or nothing if it is not here."""
    if name == "devsim":
        return python_simulator.version()
    if name == "ngspice":
        return simulator.version()
    if name == "python":
        return python_simulator.python_version()
    if name in _REGISTERED:
        return "1" if _REGISTERED[name]() else ""
    return function_simulator.VERSION if name in ("function", "table") else ""


def deck_version(deck: Deck) -> str:
    """What computes a deck's points on this machine, so that its change has them computed again.

    The simulator's version, with the identity of the registered program or models.

    Raises:
        UnavailableError: If the simulator is not here.
    """
    version = require_simulator(deck.simulator)
    if deck.command is not None and deck.command.program in (known := programs()):
        return f"{deck.command.program}-{known[deck.command.program].identity}"
    if deck.simulator == "ngspice":
        for name, folder in sorted(folders_of(deck).items()):
            version += f"+{name}-{folder_identity(folder)}"
    return version


def require_simulator(name: str) -> str:
    """The version of a simulator that must be here.

    Raises:
        UnavailableError: If it is not, saying how to get it.
    """
    version = simulator_version(name)
    if not version:
        if name not in _HINTS:
            raise UnavailableError(f"no simulator is named `{name}`", reason="NO_SIMULATOR")
        if name in _REGISTERED:
            raise UnavailableError(
                f"nothing is registered for the simulator `{name}`; {_HINTS[name]}",
                reason="NO_SIMULATOR",
            )
        raise UnavailableError(
            f"the simulator `{name}` is not installed on this machine; get it with {_HINTS[name]}",
            reason="NO_SIMULATOR",
        )
    return version
