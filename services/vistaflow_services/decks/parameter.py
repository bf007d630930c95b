"""One parameter: what values it takes, and how they lie in the unit interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.expressions import RESERVED, suggest
from vistaflow_services.decks.rounding import round_significant

Choice = str | float | int
"""A value of a parameter."""

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
"""What parameters and responses may be called."""

LOWER_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""What decks and named functions may be called."""

MAX_CHOICES: Final = 1000
FLAG: Final = (0, 1)
"""The choices of a parameter that is false or true."""

_MAX_INTEGER = 2**53


class Kind(StrEnum):
    """What values a parameter takes."""

    REAL = "real"
    INTEGER = "integer"
    CATEGORICAL = "categorical"
    """One of some choices that have no order."""
    ORDINAL = "ordinal"
    """One of some choices, in their order."""


class Scale(StrEnum):
    """How a range is laid out in the unit interval."""

    LINEAR = "linear"
    LOG = "log"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Something that may be varied; valid once made.

    Raises:
        InvalidError: From the constructor, with every mistake under the name of its field.
    """

    name: str
    kind: Kind = Kind.REAL
    low: float | None = None
    """Smallest value, inclusive; real and integer parameters only."""
    high: float | None = None
    """Largest value, inclusive; real and integer parameters only."""
    choices: tuple[Choice, ...] = ()
    """At least two different ones, all text or all numbers; numbers of an ordinal one ascend."""
    unit: str = ""
    scale: Scale = Scale.LINEAR
    default: Choice | None = None
    description: str = ""
    title: str = ""
    """What people call it, in any script."""

    def __post_init__(self) -> None:
        violations = Violations()
        check_name(self.name, "name", violations)
        if self.kind in (Kind.REAL, Kind.INTEGER):
            self._check_range(violations)
        else:
            self._check_choices(violations)
        violations.check()
        object.__setattr__(self, "choices", _canonical_choices(self.choices))
        if self.kind is Kind.INTEGER:
            object.__setattr__(self, "low", int(self.low or 0))
            object.__setattr__(self, "high", int(self.high or 0))
        elif self.kind is Kind.REAL:
            object.__setattr__(self, "low", float(self.low or 0))
            object.__setattr__(self, "high", float(self.high or 0))
        if self.default is not None:
            value, problem = self.canonical(self.default)
            if problem:
                violations.add("default", problem)
            object.__setattr__(self, "default", value)
        violations.check()

    def _check_range(self, violations: Violations) -> None:
        if self.choices:
            violations.add(
                "choices",
                f"the type {self.kind} has a range; choices go with categorical and ordinal",
            )
            return
        for field, value in (("low", self.low), ("high", self.high)):
            if value is None:
                violations.add(field, f"missing; the type {self.kind} needs a range of two numbers")
            elif not _is_number(value) or not math.isfinite(value):
                violations.add(field, f"`{value}` is not a finite number")
            elif self.kind is Kind.INTEGER and (value != int(value) or abs(value) > _MAX_INTEGER):
                violations.add(field, f"{value!r} is not a whole number of at most 2**53")
        if violations:
            return
        assert self.low is not None
        assert self.high is not None
        if self.low >= self.high:
            violations.add("low", f"{self.low!r} is not below the upper end {self.high!r}")
        elif not math.isfinite(self.high - self.low):
            violations.add("high", "the range is too wide for double precision")
        if self.scale is Scale.LOG and self.low <= 0:
            violations.add("low", f"a log scale needs a range above 0, not one from {self.low!r}")

    def _check_choices(self, violations: Violations) -> None:
        if self.low is not None or self.high is not None:
            violations.add("low", f"the type {self.kind} has choices, not a range")
        if self.scale is not Scale.LINEAR:
            violations.add("scale", f"the type {self.kind} has no scale")
        if not 2 <= len(self.choices) <= MAX_CHOICES:
            violations.add("choices", f"{len(self.choices)} choices; give 2 to {MAX_CHOICES}")
            return
        texts = [choice for choice in self.choices if isinstance(choice, str)]
        numbers = [choice for choice in self.choices if _is_number(choice)]
        if len(texts) not in (0, len(self.choices)) or len(texts) + len(numbers) < len(
            self.choices
        ):
            violations.add(
                "choices", "all must be texts or all numbers; quote what is meant as text"
            )
        elif len(set(self.choices)) < len(self.choices):
            twice = next(choice for choice in self.choices if self.choices.count(choice) > 1)
            violations.add("choices", f"`{twice}` is given twice")
        elif any(not text.isprintable() or not 1 <= len(text) <= 64 for text in texts):
            violations.add("choices", "a text has 1 to 64 printable characters")
        elif not all(math.isfinite(float(number)) for number in numbers):
            violations.add("choices", "numbers must be finite")
        elif self.kind is Kind.ORDINAL and numbers != sorted(numbers, key=float):
            violations.add("choices", "the numbers of an ordinal parameter must ascend")

    @property
    def dtype(self) -> type[Any] | None:
        """The type of its columns, if it is not that of its choices."""
        if self.choices:
            return None
        return np.int64 if self.kind is Kind.INTEGER else np.float64

    @property
    def is_numeric(self) -> bool:
        """Whether formulas can read it."""
        return not (self.choices and isinstance(self.choices[0], str))

    def canonical(self, value: object) -> tuple[Choice | None, str]:
        """The one form of `value` that points hold, and what is wrong with it (or nothing)."""
        if isinstance(value, np.generic):
            value = value.item()
        if self.choices:
            if isinstance(value, bool) and self.choices == FLAG:
                return int(value), ""
            if isinstance(value, bool) or not isinstance(value, str | float | int):
                return None, f"`{value!r}` is not one of its choices"
            # The choice is returned, not the value: 1 and 1.0 are equal, but differ as text.
            for choice in self.choices:
                if choice == value and isinstance(choice, str) == isinstance(value, str):
                    return choice, ""
            shown = ", ".join(f"`{choice}`" for choice in self.choices[:8])
            return None, f"`{value}` is not one of its choices {shown}"
        if not _is_number(value) or not math.isfinite(value):  # type: ignore[arg-type]
            return None, f"`{value}` is not a finite number"
        number = float(value)  # type: ignore[arg-type]
        assert self.low is not None
        assert self.high is not None
        if self.kind is Kind.INTEGER and number != round(number):
            return None, f"{value} is not a whole number"
        # Rounding to twelve digits may have moved a limit by its last digit.
        if not _slack(self.low, self.high, below=True) <= number <= _slack(self.low, self.high):
            unit = f" {self.unit}" if self.unit else ""
            return None, f"{value} is outside its range {self.low!r} to {self.high!r}{unit}"
        if self.kind is Kind.INTEGER:
            return round(number), ""
        return float(np.clip(round_significant(number), self.low, self.high)), ""

    def decode(self, unit: NDArray[np.float64]) -> NDArray[Any]:
        """Values at places (n,) of the unit interval; places outside are moved to its ends."""
        unit = np.clip(unit, 0.0, 1.0)
        if self.choices:
            cells = len(self.choices)
            places = np.minimum((unit * cells).astype(np.int64), cells - 1)
            return np.take(np.array(self.choices), places)
        low, high = self._ends()
        if self.scale is Scale.LOG:
            values = np.exp(np.log(low) + unit * (np.log(high) - np.log(low)))
        else:
            values = low + unit * (high - low)
        if self.kind is Kind.INTEGER:
            # Each whole number has a cell of its own; the cell's upper edge belongs to the next.
            whole = np.floor(values + 0.5)
            held = np.minimum(np.maximum(whole, low + 0.5), high - 0.5)
            return np.asarray(held, dtype=np.int64)
        bounded: NDArray[np.float64] = np.minimum(np.maximum(round_significant(values), low), high)
        return bounded

    def encode(self, values: ArrayLike) -> NDArray[np.float64]:
        """Places (n,) in the unit interval of canonical `values`; the inverse of `decode`.

        Raises:
            InvalidError: If a value is outside the range or no choice; the field is the name.
        """
        if self.choices:
            centres: NDArray[np.float64] = (self.positions(values) + 0.5) / len(self.choices)
            return centres
        numbers = np.asarray(values, dtype=np.float64)
        assert self.low is not None
        assert self.high is not None
        bounds = _slack(self.low, self.high, below=True), _slack(self.low, self.high)
        bad = ~((numbers >= bounds[0]) & (numbers <= bounds[1]))
        if bad.any():
            violations = Violations()
            value = numbers[bad][0] if numbers.ndim else float(numbers)
            violations.add(self.name, f"{value} is outside its range {self.low!r} to {self.high!r}")
            violations.check()
        low, high = self._ends()
        if self.scale is Scale.LOG:
            places = (np.log(numbers) - np.log(low)) / (np.log(high) - np.log(low))
        else:
            places = (numbers - low) / (high - low)
        bounded: NDArray[np.float64] = np.minimum(np.maximum(places, 0.0), 1.0)
        return bounded

    def positions(self, values: ArrayLike) -> NDArray[np.int64]:
        """Which choice each of `values` is, from 0.

        Raises:
            InvalidError: If one is no choice; the field is the parameter's name.
        """
        array = np.asarray(values)
        places = np.full(array.shape, -1, dtype=np.int64)
        if (array.dtype.kind in "US") != self.is_numeric:
            for index, choice in enumerate(self.choices):
                places[array == choice] = index
        if (places < 0).any():
            violations = Violations()
            violations.add(
                self.name, self.canonical(array[places < 0][0])[1] or "not one of its choices"
            )
            violations.check()
        return places

    def _ends(self) -> tuple[float, float]:
        """The ends of the unit interval: half a cell beyond the range for whole numbers."""
        assert self.low is not None
        assert self.high is not None
        half = 0.5 if self.kind is Kind.INTEGER else 0.0
        return self.low - half, self.high + half

    def to_dict(self) -> dict[str, Any]:
        """The parameter as JSON-able values; unset fields are left out."""
        fields: dict[str, Any] = {"name": self.name, "type": str(self.kind)}
        if self.choices:
            fields["choices"] = list(self.choices)
        else:
            fields["range"] = [self.low, self.high]
            fields["scale"] = str(self.scale)
        for field in ("unit", "default", "description", "title"):
            if getattr(self, field) not in (None, ""):
                fields[field] = getattr(self, field)
        return fields

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Parameter:
        """The parameter of which `to_dict` returned the fields."""
        low, high = fields.get("range") or (None, None)
        return Parameter(
            name=fields["name"],
            kind=Kind(fields.get("type", "real")),
            low=low,
            high=high,
            choices=tuple(fields.get("choices", ())),
            scale=Scale(fields.get("scale", "linear")),
            unit=fields.get("unit", ""),
            default=fields.get("default"),
            description=fields.get("description", ""),
            title=fields.get("title", ""),
        )


def stepped(low: float, high: float, step: float) -> tuple[float, ...]:
    """The values `low`, `low + step`, … up to `high`.

    Raises:
        InvalidError: If `step` does not divide the range, or there are too many; field `step`.
    """
    violations = Violations()
    if not 0 < step <= high - low:
        violations.add("step", f"{step!r} is not above 0 and at most the range's {high - low:g}")
        violations.check()
    count = round((high - low) / step)
    if abs(count * step - (high - low)) > 1e-9 * (high - low):
        violations.add(
            "step", f"{step!r} does not divide the range {low!r} to {high!r}: change one of them"
        )
    elif count >= MAX_CHOICES:
        violations.add("step", f"{step!r} gives {count + 1} values; at most {MAX_CHOICES} may be")
    violations.check()
    whole = all(float(value).is_integer() for value in (low, step))
    values = [float(round_significant(low + index * step)) for index in range(count)] + [high]
    return tuple(int(value) if whole else float(value) for value in values)


_NARROWED_KEYS: Final = ("low", "high", "range", "choices", "scale", "default")


def narrowed(parameter: Parameter, override: Mapping[str, Any] | Sequence[Any]) -> Parameter:
    """A parameter with less to it than the deck allows; see `Space.narrow`.

    Raises:
        InvalidError: For each key that is unknown, malformed or reaches beyond the deck.
    """
    violations = Violations()
    if not isinstance(override, Mapping):
        override = {"choices" if parameter.choices else "range": override}
    for key in override:
        if key not in _NARROWED_KEYS:
            violations.add(str(key), f"unknown key{suggest(str(key), _NARROWED_KEYS)}")
    changes: dict[str, Any] = {key: override[key] for key in override if key in _NARROWED_KEYS}
    _narrow_range(changes, violations)
    if parameter.kind is Kind.ORDINAL and parameter.is_numeric and "choices" not in changes:
        _narrow_steps(parameter, changes, violations)
    _narrow_choices(parameter, changes, violations)
    _check_ends(parameter, changes, violations)
    if "scale" in changes:
        if changes["scale"] in tuple(Scale):
            changes["scale"] = Scale(changes["scale"])
        else:
            violations.add("scale", f"`{changes['scale']}` is neither linear nor log")
    violations.check()
    if "default" in changes or parameter.default is None:
        return replace(parameter, **changes)
    # The deck's default stays where it is still a value; elsewhere the middle takes its place.
    without = replace(parameter, **changes, default=None)
    inside = not without.canonical(parameter.default)[1]
    return replace(without, default=parameter.default if inside else None)


def _narrow_range(changes: dict[str, Any], violations: Violations) -> None:
    """Puts `low` and `high` in the place of a `range`."""
    if "range" not in changes:
        return
    pair = changes.pop("range")
    if isinstance(pair, list | tuple) and len(pair) == 2:
        changes["low"], changes["high"] = pair
    else:
        violations.add("range", "give two numbers, [low, high]")


def _narrow_steps(parameter: Parameter, changes: dict[str, Any], violations: Violations) -> None:
    """Puts the choices between `low` and `high` in the place of these."""
    ends: dict[str, Any] = {key: changes.pop(key) for key in ("low", "high") if key in changes}
    low, high = ends.get("low", parameter.choices[0]), ends.get("high", parameter.choices[-1])
    if not ends or not (_is_number(low) and _is_number(high)):
        changes |= ends
        return
    changes["choices"] = tuple(value for value in parameter.choices if low <= value <= high)
    if len(changes["choices"]) < 2:
        violations.add(
            "low" if "low" in ends else "high",
            f"{low!r} to {high!r} has {len(changes['choices'])} of the deck's values; give at "
            "least 2, or one value to hold it",
        )
        violations.check()


def _narrow_choices(parameter: Parameter, changes: dict[str, Any], violations: Violations) -> None:
    """Checks that all choices are the deck's.

    Raises:
        InvalidError: If they are no list: nothing further can be checked then.
    """
    if "choices" not in changes:
        return
    choices = changes["choices"]
    if not isinstance(choices, list | tuple):
        violations.add("choices", "give a list")
        violations.check()
    changes["choices"] = tuple(choices)
    for choice in choices:
        if parameter.canonical(choice)[1]:
            violations.add("choices", f"`{choice}` is not one of the deck's choices")


def _check_ends(parameter: Parameter, changes: Mapping[str, Any], violations: Violations) -> None:
    """Checks that the ends of a range are values of the deck's range.

    Of a parameter with choices the constructor refuses the ends, whatever they are.
    """
    if parameter.choices:
        return
    for end in ("low", "high"):
        if end in changes and (problem := parameter.canonical(changes[end])[1]):
            violations.add(end, f"{problem}; a kit may narrow the deck's range, not widen it")


def check_name(name: object, field: str, violations: Violations, *, lower: bool = False) -> None:
    """Notes a name that is not an identifier of decks, or that formulas use otherwise."""
    if not isinstance(name, str) or not (LOWER_NAME if lower else NAME).fullmatch(name):
        letters = "lower-case letters" if lower else "letters a-z and A-Z"
        other = "" if lower else "; `title` takes a name in any script"
        violations.add(
            field,
            f"`{name}` is no name; use {letters}, digits and _, a letter first, "
            f"at most 63 characters{other}",
        )
    elif name.lower() in RESERVED:
        violations.add(field, f"`{name}` is a word of the formula language; choose another name")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _canonical_choices(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Whole numbers stay so only if all are, so that a column of choices has one type."""
    if any(isinstance(choice, float) for choice in choices):
        return tuple(float(round_significant(float(choice))) for choice in choices)
    return choices


def _slack(low: float, high: float, *, below: bool = False) -> float:
    """An end of the range, moved out by what rounding to twelve digits may move a value."""
    end = low if below else high
    room = 1e-11 * max(abs(low), abs(high)) if isinstance(end, float) else 0.0
    return end - room if below else end + room
