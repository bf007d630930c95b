"""The space that a deck's parameters span.

Three views of one set of points: *points* (dicts, what people and simulators see), *columns*
(one array a parameter, what is fast) and the *unit cube* (what designs and optimisers work in;
logarithms, whole numbers and choices are laid out in it evenly).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.decks.expressions import Constraint, parse_constraint, suggest
from vistaflow_services.decks.parameter import Choice, Kind, Parameter, Scale, narrowed

__all__ = ["MAX_PARAMETERS", "Choice", "Columns", "Kind", "Parameter", "Point", "Scale", "Space"]

Point = dict[str, float | int | str]
"""A value for each parameter of a space."""

Columns = dict[str, NDArray[Any]]
"""An array a parameter: float64, int64 or text."""

MAX_PARAMETERS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Space:
    """The points that a deck accepts: a value for each parameter, all constraints met.

    Raises:
        InvalidError: From the constructor, if names repeat or a constraint reads an unknown one.
    """

    parameters: tuple[Parameter, ...]
    """Those that vary."""
    constraints: tuple[Constraint, ...] = ()
    fixed: Mapping[str, Choice] = field(default_factory=dict)
    """Parameters of the deck that a kit holds at one value; points have them, the cube has not."""

    def __post_init__(self) -> None:
        violations = Violations()
        if not 1 <= len(self.parameters) <= MAX_PARAMETERS:
            violations.add(
                "parameters", f"{len(self.parameters)} given; 1 to {MAX_PARAMETERS} may be"
            )
        seen: dict[str, int] = {}
        for index, parameter in enumerate(self.parameters):
            if parameter.name.lower() in seen:
                violations.add(
                    f"parameters[{index}].name",
                    f"`{parameter.name}` is also the name of "
                    f"parameters[{seen[parameter.name.lower()]}]",
                )
            if parameter.name in self.fixed:
                violations.add(f"parameters[{index}].name", f"`{parameter.name}` is also fixed")
            seen.setdefault(parameter.name.lower(), index)
        for index, constraint in enumerate(self.constraints):
            for name in sorted(constraint.names - set(self.numeric_names)):
                violations.add(f"constraints[{index}]", f"`{name}` is not a numeric parameter")
        violations.check()

    @property
    def dimension(self) -> int:
        """How many parameters there are."""
        return len(self.parameters)

    @property
    def names(self) -> list[str]:
        """The parameters' names, in their order."""
        return [parameter.name for parameter in self.parameters]

    @property
    def point_names(self) -> list[str]:
        """The names that a point has: those of the parameters, then the fixed ones."""
        return [*self.names, *self.fixed]

    @property
    def numeric_names(self) -> list[str]:
        """The names that formulas can read."""
        varied = [parameter.name for parameter in self.parameters if parameter.is_numeric]
        return varied + [name for name, value in self.fixed.items() if not isinstance(value, str)]

    @cached_property
    def _by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def decode_columns(self, unit: ArrayLike) -> Columns:
        """The points at places (n, d) of the unit cube, as columns.

        Logarithms, whole numbers and choices are applied; floats are rounded to twelve
        significant digits, so that equal points are equal everywhere.
        """
        places = np.asarray(unit, dtype=np.float64)
        if places.ndim != 2 or places.shape[1] != self.dimension:
            raise ValueError(f"expected shape (n, {self.dimension}), got {places.shape}")
        if np.isnan(places).any():
            raise ValueError("a place in the unit cube is nan")
        varied = {
            parameter.name: parameter.decode(places[:, index])
            for index, parameter in enumerate(self.parameters)
        }
        return self._with_fixed(varied, len(places))

    def decode(self, unit: ArrayLike) -> list[Point]:
        """The canonical points at places (n, d) of the unit cube."""
        return self.points(self.decode_columns(unit))

    def points(self, columns: Mapping[str, NDArray[Any]]) -> list[Point]:
        """Columns as points; integers are int, reals float, choices as they were declared.

        Columns of fixed parameters may be missing.
        """
        names = self.point_names
        columns = self._with_fixed(columns, len(columns[names[0]]))
        rows = zip(*(columns[name].tolist() for name in names), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def columns(self, points: Sequence[Mapping[str, Any]]) -> Columns:
        """Canonical points as columns; fixed parameters may be missing in them."""
        varied = {
            parameter.name: np.array(
                [point[parameter.name] for point in points], dtype=parameter.dtype
            )
            for parameter in self.parameters
        }
        return self._with_fixed(varied, len(points))

    def _with_fixed(self, columns: Mapping[str, NDArray[Any]], count: int) -> Columns:
        held = {name: np.full(count, value) for name, value in self.fixed.items()}
        return {**columns, **held}

    def encode(self, points: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Places (n, d) in the unit cube; `decode` gives the same points back.

        Whole numbers and choices lie at the centres of their cells.

        Raises:
            InvalidError: If a value is outside its range.
        """
        return self.encode_columns(self.columns(points))

    def encode_columns(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """`encode` for columns."""
        return np.column_stack(
            [parameter.encode(columns[parameter.name]) for parameter in self.parameters]
        )

    def features(
        self, points: Sequence[Mapping[str, Any]]
    ) -> tuple[NDArray[np.float64], list[str]]:
        """Inputs (n, p) for models, and their names.

        Like `encode`, but a categorical parameter becomes one column a choice, 1 for the chosen
        one and 0 for the others, named `name=choice`.
        """
        return self.features_columns(self.columns(points))

    def features_columns(
        self, columns: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float64], list[str]]:
        """`features` for columns."""
        parts: list[NDArray[np.float64]] = []
        for parameter in self.parameters:
            if parameter.kind is Kind.CATEGORICAL:
                places = parameter.positions(columns[parameter.name])
                parts.append(
                    (places[:, None] == np.arange(len(parameter.choices))).astype(np.float64)
                )
            else:
                parts.append(parameter.encode(columns[parameter.name])[:, None])
        return np.concatenate(parts, axis=1), self.feature_names

    @property
    def feature_names(self) -> list[str]:
        """The names of the columns of `features`."""
        names: list[str] = []
        for parameter in self.parameters:
            several = parameter.kind is Kind.CATEGORICAL
            names += (
                [f"{parameter.name}={choice}" for choice in parameter.choices]
                if several
                else [parameter.name]
            )
        return names

    def feasible(self, points: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
        """Whether each point (n,) meets all constraints."""
        return self.feasible_columns(self.columns(points))

    def feasible_columns(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """`feasible` for columns."""
        met = np.ones(len(columns[self.names[0]]), dtype=np.bool_)
        columns = self._with_fixed(columns, len(met))
        for constraint in self.constraints:
            met &= constraint.met(columns)
        return met

    def check(self, point: Mapping[str, Any]) -> Point:
        """The canonical form of a point that a person typed.

        Fixed parameters may be left out. Constraints are not looked at: a point that breaks one
        is `INFEASIBLE`, which is data.

        Raises:
            InvalidError: One violation a parameter that is missing, unknown or out of range.
        """
        violations = Violations()
        canonical: Point = {}
        for name in point:
            if name in self.fixed:
                if point[name] != self.fixed[name]:
                    violations.add(name, f"is fixed at {self.fixed[name]!r} in this space")
            elif name not in self._by_name:
                violations.add(
                    str(name), f"unknown parameter{suggest(str(name), self.point_names)}"
                )
        for parameter in self.parameters:
            if parameter.name not in point:
                violations.add(parameter.name, "missing; every parameter needs a value")
                continue
            value, problem = parameter.canonical(point[parameter.name])
            if problem or value is None:
                violations.add(parameter.name, problem)
            else:
                canonical[parameter.name] = value
        violations.check()
        return {**canonical, **self.fixed}

    def constrain(self, texts: Sequence[str]) -> Space:
        """The space with further constraints.

        Raises:
            InvalidError: For each text that is none, as `constraints[0]`.
        """
        violations = Violations()
        constraints: list[Constraint] = []
        for index, text in enumerate(texts):
            try:
                constraints.append(parse_constraint(text, self.numeric_names))
            except InvalidError as error:
                violations.extend(f"constraints[{index}]", error)
        violations.check()
        return replace(self, constraints=(*self.constraints, *constraints))

    def narrow(self, overrides: Mapping[str, Any]) -> Space:
        """The space with some ranges or choices reduced, and some parameters fixed.

        Args:
            overrides: For a parameter's name one value, which it then keeps; or `[low, high]`, a
                list of choices, or a mapping with some of `low`, `high`, `range`, `choices`,
                `scale`, `default`.

        Raises:
            InvalidError: For each override that is unknown, malformed or reaches beyond the deck.
        """
        violations = Violations()
        varied: list[Parameter] = []
        fixed = dict(self.fixed)
        for name in overrides:
            if name not in self._by_name:
                violations.add(str(name), f"unknown parameter{suggest(str(name), self.names)}")
        for parameter in self.parameters:
            override = overrides.get(parameter.name)
            if override is None:
                varied.append(parameter)
            elif isinstance(override, Mapping | list | tuple):
                try:
                    varied.append(narrowed(parameter, override))
                except InvalidError as error:
                    violations.extend(parameter.name, error)
            else:
                value, problem = parameter.canonical(override)
                if problem or value is None:
                    violations.add(
                        parameter.name, f"{problem}; fix it at a value that the deck allows"
                    )
                else:
                    fixed[parameter.name] = value
        if not varied and not violations:
            violations.add("", "every parameter is fixed; leave at least one to vary")
        violations.check()
        return replace(self, parameters=tuple(varied), fixed=fixed)

    def to_dict(self) -> dict[str, Any]:
        """The space as JSON-able values."""
        return {
            "parameters": [parameter.to_dict() for parameter in self.parameters],
            "constraints": [str(constraint) for constraint in self.constraints],
            **({"fixed": dict(self.fixed)} if self.fixed else {}),
        }

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Space:
        """The space of which `to_dict` returned the fields.

        Raises:
            InvalidError: If it is none.
        """
        parameters = tuple(Parameter.from_dict(parameter) for parameter in fields["parameters"])
        space = Space(parameters=parameters, fixed=dict(fields.get("fixed", {})))
        return space.constrain(fields.get("constraints", ()))
