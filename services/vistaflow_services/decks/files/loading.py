"""deck.yaml to a deck, every mistake at once with its file, line and field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.decks.definition import (
    DECK_FILE,
    Deck,
    FailurePolicy,
    Policy,
    Response,
)
from vistaflow_services.decks.expressions import Constraint, parse_constraint, suggest
from vistaflow_services.decks.feasibility import find_feasible, never_met
from vistaflow_services.decks.files.document import read_document
from vistaflow_services.decks.files.fields import Fields
from vistaflow_services.decks.files.forms import (
    AMOUNT,
    DECK,
    FAILURE,
    FLAG_TYPE,
    MAX_CONSTRAINTS,
    MEASURE,
    PARAMETER,
    RANGED,
    RESPONSE,
)
from vistaflow_services.decks.files.sources import Place, Sources, pattern_problem
from vistaflow_services.decks.parameter import (
    FLAG,
    Choice,
    Kind,
    Parameter,
    Scale,
    check_name,
    stepped,
)
from vistaflow_services.decks.space import Space


def parse_deck(files: Mapping[str, bytes]) -> Deck:
    """The deck that files describe; nothing of it is run or imported.

    Args:
        files: Contents by path in the deck, among them deck.yaml.

    Raises:
        InvalidError: With every mistake, its field such as `deck.yaml:12 parameters[2].range`.
    """
    if DECK_FILE not in files:
        near = suggest(DECK_FILE, [file for file in files if file.endswith((".yaml", ".yml"))])
        violations = Violations()
        violations.add(DECK_FILE, f"missing; a deck's folder has a file of this name in it{near}")
        violations.check()
    fields = Fields(read_document(files[DECK_FILE], DECK_FILE))
    return _Loader(fields, files).deck()


class _Loader:
    """Reads one deck; goes on after a mistake as far as the rest still makes sense."""

    def __init__(self, fields: Fields, files: Mapping[str, bytes]) -> None:
        self._fields = fields
        self._files = files

    def deck(self) -> Deck:
        root = self._fields.mapping(self._fields.document.root, "", form=DECK, required=True)
        for key in DECK.required:
            if key not in root:
                self._fields.add(key, "missing")
        name = self._fields.text(root, "", "name", DECK.keys["name"])
        if "name" in root:
            self._name(name, "name", lower=True)
        simulator = self._fields.one_of(root, "", "simulator", DECK.keys["simulator"])
        parameters, named = self._parameters(root.get("parameters"), "parameters" in root)
        responses = self._responses(root.get("responses"), "responses" in root, named)
        constraints = self._constraints(root.get("constraints"), parameters, named)
        runs = Sources(self._fields, self._files)
        sources = runs.read(root, simulator)
        runs.check(sources, simulator, parameters, responses, named)
        deck_fields: dict[str, Any] = {
            "name": name,
            "version": self._fields.text(root, "", "version", DECK.keys["version"]) or "1",
            "description": self._fields.text(root, "", "description", DECK.keys["description"]),
            "simulator": simulator,
            "responses": tuple(responses),
            "failure_policy": self._failure(root.get("failure"), responses),
            "files": self._files,
            "timeout_seconds": self._fields.quantity(root, "", "timeout", DECK.keys["timeout"]),
            "memory_limit_bytes": int(
                self._fields.quantity(root, "", "memory_limit", DECK.keys["memory_limit"])
            ),
            "noisy": self._flag(
                root, "noisy", simulator, "a named function gives the same value each time"
            ),
            "keep_files": self._flag(
                root, "keep_files", simulator, "a named function writes no files"
            ),
            "points_per_process": self._points_per_process(root, simulator),
            **sources,
        }
        self._fields.violations.check()
        space = Space(parameters=tuple(parameters), constraints=tuple(constraints))
        self._feasible(space)
        self._fields.violations.check()
        return Deck(space=space, **deck_fields)

    def _parameters(self, entries: Any, present: bool) -> tuple[list[Parameter], list[Place]]:
        """The parameters that are right, and the names of all."""
        parameters: list[Parameter] = []
        named: list[Place] = []
        for path, entry in self._fields.items(
            entries, "parameters", DECK.keys["parameters"], present=present
        ):
            name = self._named(entry, path, named)
            word = self._fields.one_of(entry, path, "type", PARAMETER.keys["type"])
            if word == FLAG_TYPE:
                entry = {"choices": list(FLAG), **entry}
                for key in ("range", "scale", "step"):
                    if key in entry:
                        self._fields.add(f"{path}.{key}", "the type boolean is 0 or 1: remove it")
                        del entry[key]
            kind = Kind.ORDINAL if word == FLAG_TYPE else Kind(word)
            scale = Scale(self._fields.one_of(entry, path, "scale", PARAMETER.keys["scale"]))
            low, high = self._fields.range(entry, path, PARAMETER.keys["range"])
            choices = entry.get("choices", [])
            # A mistake of form ends the checks of this parameter: later ones would report what
            # follows from it.
            if not isinstance(choices, list):
                self._fields.add(f"{path}.choices", "is no list; write [first, second]")
                continue
            if kind in RANGED and "range" not in entry and not choices:
                self._fields.add(
                    f"{path}.range", f"missing; the type {kind} has `range: [low, high]`"
                )
                continue
            if kind not in RANGED and "choices" not in entry:
                self._fields.add(
                    f"{path}.choices", f"missing; the type {kind} has a list of choices"
                )
                continue
            # `range` has reported its own mistake.
            if "range" in entry and (low is None or high is None):
                continue
            if "step" in entry and low is not None and high is not None:
                choices, kind = self._stepped(entry, path, low, high, scale), Kind.ORDINAL
                low = high = None
                if not choices:
                    continue
            try:
                parameter = Parameter(
                    # A wrong name is noted already; the other fields are checked all the same.
                    name=name or "unnamed",
                    kind=kind,
                    low=low,
                    high=high,
                    choices=tuple(choices),
                    unit=self._fields.text(entry, path, "unit", PARAMETER.keys["unit"]),
                    scale=scale,
                    default=entry.get("default"),
                    title=self._fields.text(entry, path, "title", PARAMETER.keys["title"]),
                    description=self._fields.text(
                        entry, path, "description", PARAMETER.keys["description"]
                    ),
                )
            except InvalidError as error:
                for wrong in error.violations:
                    # The file has one key for both ends.
                    field = "range" if wrong.field in ("low", "high") else wrong.field
                    self._fields.add(f"{path}.{field}", wrong.description)
                continue
            if name:
                parameters.append(parameter)
        return parameters, named

    def _stepped(
        self, entry: dict[str, Any], path: str, low: float, high: float, scale: Scale
    ) -> list[Choice]:
        """The values of a range with a step; none after a mistake, which is noted."""
        if scale is Scale.LOG:
            self._fields.add(
                f"{path}.step", "goes with a linear scale; list the values as `choices`"
            )
            return []
        before = len(list(self._fields.violations))
        step = self._fields.number(entry, path, "step", PARAMETER.keys["step"])
        if len(list(self._fields.violations)) > before:
            return []
        try:
            return list(stepped(low, high, step))
        except InvalidError as error:
            for wrong in error.violations:
                self._fields.add(f"{path}.{wrong.field}", wrong.description)
            return []

    def _responses(self, entries: Any, present: bool, parameters: list[Place]) -> list[Response]:
        responses: list[Response] = []
        named = list(parameters)
        for path, field in self._fields.items(
            entries, "responses", DECK.keys["responses"], present=present
        ):
            name = self._named(field, path, named)
            low, high = self._fields.range(field, path, RESPONSE.keys["range"])
            measure = self._fields.text(field, path, "measure", RESPONSE.keys["measure"])
            if measure and not re.fullmatch(MEASURE, measure):
                self._fields.add(f"{path}.measure", f"`{measure}` is no name of a measurement")
            if name:
                unit = self._fields.text(field, path, "unit", RESPONSE.keys["unit"])
                description = self._fields.text(
                    field, path, "description", RESPONSE.keys["description"]
                )
                responses.append(
                    Response(
                        name=name,
                        unit=unit,
                        description=description,
                        low=low,
                        high=high,
                        measure=measure,
                        title=self._fields.text(field, path, "title", RESPONSE.keys["title"]),
                        pattern=self._pattern(field, path),
                        fallback=(
                            self._fields.number(field, path, "fallback", RESPONSE.keys["fallback"])
                            if field.get("fallback") is not None
                            else None
                        ),
                    )
                )
        return responses

    def _pattern(self, entry: dict[str, Any], path: str) -> str:
        """The regular expression of a response, with one group."""
        pattern = self._fields.text(entry, path, "pattern", RESPONSE.keys["pattern"])
        problem = pattern_problem(pattern, groups=1) if pattern else ""
        if problem:
            self._fields.add(f"{path}.pattern", problem)
        return pattern

    def _constraints(
        self, value: Any, parameters: list[Parameter], named: list[Place]
    ) -> list[Constraint]:
        constraints: list[Constraint] = []
        texts = {parameter.name for parameter in parameters if not parameter.is_numeric}
        # A parameter with another mistake is known all the same.
        names = [place.name for place in named]
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_CONSTRAINTS:
            self._fields.add("constraints", f"is no list of at most {MAX_CONSTRAINTS} texts")
            return []
        for index, text in enumerate(value):
            if not isinstance(text, str):
                self._fields.add(f"constraints[{index}]", 'is no text; write such as "h <= b"')
                continue
            try:
                constraint = parse_constraint(text, names)
            except InvalidError as error:
                self._fields.add(f"constraints[{index}]", error.message)
                continue
            for name in sorted(constraint.names & texts):
                self._fields.add(
                    f"constraints[{index}]", f"`{name}` has choices of text, which no formula reads"
                )
            constraints.append(constraint)
        return constraints

    def _feasible(self, space: Space) -> None:
        if not space.constraints or find_feasible(space) is not None:
            return
        alone = never_met(space)
        for index in alone:
            self._fields.add(
                f"constraints[{index}]",
                f"no point of the space meets `{space.constraints[index]}`; "
                "loosen it or widen the ranges it reads",
            )
        if not alone:
            self._fields.add(
                "constraints",
                "no point of the space meets all of them together; they contradict each other "
                "within the parameters' ranges",
            )

    def _failure(self, value: Any, responses: list[Response]) -> FailurePolicy:
        if value is None:
            return FailurePolicy()
        failure = self._fields.mapping(value, "failure", form=FAILURE)
        policy = Policy(self._fields.one_of(failure, "failure", "policy", FAILURE.keys["policy"]))
        retries = self._fields.number(
            failure,
            "failure",
            "retries",
            FAILURE.keys["retries"],
            fallback=1 if policy is Policy.RETRY else None,
        )
        fraction = self._fields.number(
            failure, "failure", "max_failed_fraction", FAILURE.keys["max_failed_fraction"]
        )
        substitute: dict[str, float] = {}
        values = self._fields.mapping(failure.get("substitute", {}), "failure.substitute")
        names = [response.name for response in responses]
        for name in values:
            path = f"failure.substitute.{name}"
            if name not in names:
                self._fields.add(path, f"is no response{suggest(name, names)}")
            substitute[name] = self._fields.number(values, "failure.substitute", name, AMOUNT)
        if policy is Policy.SUBSTITUTE:
            for name in names:
                if name not in values:
                    self._fields.add(
                        "failure.substitute", f"needs a value for the response `{name}`"
                    )
        elif values:
            self._fields.add(
                "failure.substitute", f"is not used by the policy {policy}; leave it out"
            )
        return FailurePolicy(
            policy=policy,
            retries=int(retries),
            max_failed_fraction=fraction,
            substitute=substitute,
        )

    def _flag(self, root: dict[str, Any], key: str, simulator: str, no_function: str) -> bool:
        """A word that is true or false, and why it is never true of a named function."""
        value: object = root.get(key, False)
        if not isinstance(value, bool):
            self._fields.add(key, f"`{value}` is neither true nor false")
            return False
        if value and simulator == "function":
            self._fields.add(key, no_function)
        return value

    def _points_per_process(self, root: dict[str, Any], simulator: str) -> int:
        key = "points_per_process"
        count = int(self._fields.number(root, "", key, DECK.keys[key]))
        if count > 1 and simulator != "ngspice":
            self._fields.add(key, f"is not used by the simulator {simulator}: leave it out")
        return count

    def _named(self, entry: dict[str, Any], path: str, named: list[Place]) -> str:
        """The name of a parameter or response, if it can stand; notes it among the others."""
        if "name" not in entry:
            self._fields.add(f"{path}.name", "missing")
            return ""
        name = self._fields.text(entry, path, "name", PARAMETER.keys["name"])
        if not self._name(name, f"{path}.name"):
            return ""
        for other in named:
            if other.name.lower() == name.lower():
                self._fields.add(f"{path}.name", f"`{name}` is already the name of {other.path}")
                return ""
        named.append(Place(path=path, name=name))
        return name

    def _name(self, name: str, path: str, *, lower: bool = False) -> bool:
        violations = Violations()
        check_name(name, path, violations, lower=lower)
        for violation in violations:
            self._fields.add(path, violation.description)
        return not violations
