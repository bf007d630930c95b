"""deck.yaml to a deck, every mistake at once with its file, line and field."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.expressions import Constraint, parse_constraint, suggest
from vistaflow_services.decks.definition import (
    DECK_FILE,
    SIMULATORS,
    Deck,
    FailurePolicy,
    Policy,
    Response,
)
from vistaflow_services.decks.document import read_document
from vistaflow_services.decks.feasibility import find_feasible, never_met
from vistaflow_services.decks.fields import Fields, is_number
from vistaflow_services.decks.parameter import Kind, Parameter, Scale, check_name
from vistaflow_services.decks.sources import Place, Sources
from vistaflow_services.decks.space import MAX_PARAMETERS, Space

MAX_RESPONSES: Final = 100
MAX_CONSTRAINTS: Final = 100
MAX_TIMEOUT: Final = 7 * 86400.0
"""Longest time one run may be given, in seconds."""

_KEYS: Final = (
    *("name", "version", "description", "simulator", "template", "entry", "function"),
    *("parameters", "responses", "constraints", "failure", "timeout", "memory_limit", "noisy"),
)
_PARAMETER_KEYS: Final = (
    *("name", "type", "range", "choices", "unit", "scale", "default", "description"),
)
_RESPONSE_KEYS: Final = ("name", "unit", "description", "measure", "range")
_FAILURE_KEYS: Final = ("policy", "retries", "max_failed_fraction", "substitute")

_MEMORY: Final = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
}  # fmt: skip
_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


def parse_deck(files: Mapping[str, bytes]) -> Deck:
    """The deck that files describe; nothing of it is run or imported.

    Args:
        files: Contents by path in the deck, among them deck.yaml.

    Raises:
        InvalidError: With every mistake, its field such as `deck.yaml:12 parameters[2].range`.
    """
    if DECK_FILE not in files:
        near = suggest(DECK_FILE, [each for each in files if each.endswith((".yaml", ".yml"))])
        found = Violations()
        found.add(DECK_FILE, f"missing; a deck's folder has a file of this name in it{near}")
        found.check()
    fields = Fields(read_document(files[DECK_FILE], DECK_FILE))
    return _Loader(fields, files).deck()


class _Loader:
    """Reads one deck; goes on after a mistake as far as the rest still makes sense."""

    def __init__(self, fields: Fields, files: Mapping[str, bytes]) -> None:
        self._fields = fields
        self._files = files

    def deck(self) -> Deck:
        told = self._fields.mapping(self._fields.document.root, "", keys=_KEYS, required=True)
        for key in ("name", "simulator", "parameters", "responses"):
            if key not in told:
                self._fields.add(key, "missing")
        name = self._fields.text(told, "", "name")
        if "name" in told:
            self._name(name, "name")
        simulator = self._fields.one_of(told, "", "simulator", SIMULATORS, "")
        parameters, named = self._parameters(told.get("parameters"), "parameters" in told)
        responses = self._responses(told.get("responses"), "responses" in told, named)
        constraints = self._constraints(told.get("constraints"), parameters, named)
        runs = Sources(self._fields, self._files)
        sources = runs.read(told, simulator)
        if simulator == "ngspice":
            runs.check_netlists(sources["templates"], parameters, responses, named)
        deck_fields: dict[str, Any] = {
            "name": name,
            "version": self._fields.text(told, "", "version", longest=40) or "1",
            "description": self._fields.text(told, "", "description", longest=8000),
            "simulator": simulator,
            "responses": tuple(responses),
            "failure_policy": self._failure(told.get("failure"), responses),
            "files": self._files,
            "timeout_seconds": self._timeout(told),
            "memory_limit_bytes": self._memory(told),
            "noisy": self._noisy(told, simulator),
            **sources,
        }
        self._fields.found.check()
        space = Space(parameters=tuple(parameters), constraints=tuple(constraints))
        self._feasible(space)
        self._fields.found.check()
        return Deck(space=space, **deck_fields)

    def _parameters(self, told: Any, given: bool) -> tuple[list[Parameter], list[Place]]:
        """The parameters that are right, and the names of all."""
        parameters: list[Parameter] = []
        named: list[Place] = []
        for path, each in self._fields.items(
            told, "parameters", given, MAX_PARAMETERS, _PARAMETER_KEYS
        ):
            name = self._named(each, path, named)
            kind = Kind(self._fields.one_of(each, path, "type", tuple(Kind), "real"))
            scale = Scale(self._fields.one_of(each, path, "scale", tuple(Scale), "linear"))
            low, high = self._fields.range(each, path, open_ended=False)
            choices = each.get("choices", [])
            if not isinstance(choices, list):
                self._fields.add(f"{path}.choices", "is no list; write [first, second]")
                continue
            if kind in (Kind.REAL, Kind.INTEGER) and "range" not in each and not choices:
                self._fields.add(
                    f"{path}.range", f"missing; the type {kind} has `range: [low, high]`"
                )
                continue
            if kind not in (Kind.REAL, Kind.INTEGER) and "choices" not in each:
                self._fields.add(
                    f"{path}.choices", f"missing; the type {kind} has a list of choices"
                )
                continue
            if "range" in each and (low is None or high is None):
                continue
            try:
                parameter = Parameter(
                    # A bad name was told already; the rest is looked at all the same.
                    name=name or "unnamed",
                    kind=kind,
                    low=low,
                    high=high,
                    choices=tuple(choices),
                    unit=self._fields.text(each, path, "unit", longest=32),
                    scale=scale,
                    default=each.get("default"),
                    description=self._fields.text(each, path, "description", longest=2000),
                )
            except InvalidError as error:
                for wrong in error.violations:
                    field = "range" if wrong.field in ("low", "high") else wrong.field
                    self._fields.add(f"{path}.{field}", wrong.description)
                continue
            if name:
                parameters.append(parameter)
        return parameters, named

    def _responses(self, told: Any, given: bool, parameters: list[Place]) -> list[Response]:
        responses: list[Response] = []
        named = list(parameters)
        for path, each in self._fields.items(
            told, "responses", given, MAX_RESPONSES, _RESPONSE_KEYS
        ):
            name = self._named(each, path, named)
            low, high = self._fields.range(each, path, open_ended=True)
            measure = self._fields.text(each, path, "measure", longest=64)
            if measure and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", measure):
                self._fields.add(f"{path}.measure", f"`{measure}` is no name of a measurement")
            if name:
                unit = self._fields.text(each, path, "unit", longest=32)
                description = self._fields.text(each, path, "description", longest=2000)
                responses.append(
                    Response(
                        name=name,
                        unit=unit,
                        description=description,
                        low=low,
                        high=high,
                        measure=measure,
                    )
                )
        return responses

    def _constraints(
        self, told: Any, parameters: list[Parameter], named: list[Place]
    ) -> list[Constraint]:
        constraints: list[Constraint] = []
        texts = {each.name for each in parameters if not each.is_numeric}
        # A parameter with another mistake is known all the same.
        names = [each.name for each in named]
        if told is None:
            return []
        if not isinstance(told, list) or len(told) > MAX_CONSTRAINTS:
            self._fields.add("constraints", f"is no list of at most {MAX_CONSTRAINTS} texts")
            return []
        for at, each in enumerate(told):
            if not isinstance(each, str):
                self._fields.add(f"constraints[{at}]", 'is no text; write such as "h <= b"')
                continue
            try:
                constraint = parse_constraint(each, names)
            except InvalidError as error:
                self._fields.add(f"constraints[{at}]", error.message)
                continue
            for name in sorted(constraint.names & texts):
                self._fields.add(
                    f"constraints[{at}]", f"`{name}` has choices of text, which no formula reads"
                )
            constraints.append(constraint)
        return constraints

    def _feasible(self, space: Space) -> None:
        if not space.constraints or find_feasible(space) is not None:
            return
        alone = never_met(space)
        for at in alone:
            self._fields.add(
                f"constraints[{at}]",
                f"no point of the space meets `{space.constraints[at]}`; "
                "loosen it or widen the ranges it reads",
            )
        if not alone:
            self._fields.add(
                "constraints",
                "no point of the space meets all of them together; they contradict each other "
                "within the parameters' ranges",
            )

    def _failure(self, told: Any, responses: list[Response]) -> FailurePolicy:
        if told is None:
            return FailurePolicy()
        told = self._fields.mapping(told, "failure", keys=_FAILURE_KEYS)
        policy = Policy(self._fields.one_of(told, "failure", "policy", tuple(Policy), "continue"))
        fallback = 1 if policy is Policy.RETRY else 0
        retries = self._fields.number(told, "failure", "retries", fallback, 0, 10, whole=True)
        fraction = self._fields.number(told, "failure", "max_failed_fraction", 0.5, 0, 1)
        substitute: dict[str, float] = {}
        given = self._fields.mapping(told.get("substitute", {}), "failure.substitute")
        known = [each.name for each in responses]
        for name in given:
            path = f"failure.substitute.{name}"
            if name not in known:
                self._fields.add(path, f"is no response{suggest(name, known)}")
            substitute[name] = self._fields.number(
                given, "failure.substitute", name, 0, -math.inf, math.inf
            )
        if policy is Policy.SUBSTITUTE:
            for name in known:
                if name not in given:
                    self._fields.add(
                        "failure.substitute", f"needs a value for the response `{name}`"
                    )
        elif given:
            self._fields.add(
                "failure.substitute", f"is not used by the policy {policy}; leave it out"
            )
        return FailurePolicy(
            policy=policy,
            retries=int(retries),
            max_failed_fraction=fraction,
            substitute=substitute,
        )

    def _timeout(self, told: dict[str, Any]) -> float:
        value = told.get("timeout", 300.0)
        if isinstance(value, str) and (
            match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", value)
        ):
            value = float(match.group(1)) * _SECONDS[match.group(2)]
        if not is_number(value) or not 0 < value <= MAX_TIMEOUT:
            self._fields.add(
                "timeout", f"give seconds, above 0 and at most {MAX_TIMEOUT:.0f}, or `5 min`"
            )
            return 300.0
        return float(value)

    def _memory(self, told: dict[str, Any]) -> int:
        value = told.get("memory_limit", 2 * 1024**3)
        if isinstance(value, str) and (
            match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", value)
        ):
            value = float(match.group(1)) * _MEMORY.get(match.group(2).upper(), math.nan)
        if not is_number(value) or not 16 * 2**20 <= value <= 2**40:
            self._fields.add(
                "memory_limit", "give `512 MiB` or a number of bytes, 16 MiB to 1024 GiB"
            )
            return 2 * 1024**3
        return int(value)

    def _noisy(self, told: dict[str, Any], simulator: str) -> bool:
        value: object = told.get("noisy", False)
        if not isinstance(value, bool):
            self._fields.add("noisy", f"`{value}` is neither true nor false")
            return False
        if value and simulator == "function":
            self._fields.add("noisy", "a named function gives the same value each time")
        return value

    def _named(self, told: dict[str, Any], path: str, named: list[Place]) -> str:
        """The name of a parameter or response, if it can stand; notes it among the others."""
        if not told:
            return ""
        if "name" not in told:
            self._fields.add(f"{path}.name", "missing")
            return ""
        name = self._fields.text(told, path, "name")
        if not self._name(name, f"{path}.name"):
            return ""
        for other in named:
            if other.name == name:
                self._fields.add(f"{path}.name", f"`{name}` is already the name of {other.path}")
                return ""
        named.append(Place(path=path, name=name))
        return name

    def _name(self, name: str, path: str) -> bool:
        found = Violations()
        check_name(name, path, found)
        for each in found:
            self._fields.add(path, each.description)
        return not found
