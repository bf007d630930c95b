"""Values of earlier jobs in a design: what may be one, and in which stages it is put.

A design is validated without these values, with the defaults of their fields; each stage checks its
spec again when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow_services.pipeline.flows.published import NUMBER, WHOLE
from vistaflow_services.pipeline.translate import DESIGN, OPTIMIZE, PREPROCESS, TRAIN

_TARGETS: Final[Mapping[str, tuple[str, tuple[tuple[str, str], ...]]]] = {
    "seed": (
        WHOLE,
        ((DESIGN, "design.seed"), (PREPROCESS, "seed"), (TRAIN, "seed"), (OPTIMIZE, "seed")),
    ),
    "design.size": (WHOLE, ((DESIGN, "design.size"),)),
    "design.seed": (WHOLE, ((DESIGN, "design.seed"),)),
    "design.levels": (WHOLE, ((DESIGN, "design.levels"),)),
    "evaluation.max_failed_fraction": (NUMBER, ((DESIGN, "evaluation.max_failed_fraction"),)),
    "ml.test_fraction": (NUMBER, ((PREPROCESS, "test_fraction"),)),
    "ml.folds": (WHOLE, ((TRAIN, "folds"),)),
    "optimize.budget": (WHOLE, ((OPTIMIZE, "budget"),)),
    "optimize.batch_size": (WHOLE, ((OPTIMIZE, "batch_size"),)),
    "optimize.tolerance": (NUMBER, ((OPTIMIZE, "tolerance"),)),
}
"""Fields of a design that may be a value, its type, and where each stage has it."""

_PARAMETER = re.compile(r"design\.parameters\[(\d+)\]\.(low|high|fixed)")

FIELDS: Final = tuple(_TARGETS)
"""The fields, beside those of parameters."""

PLACES: Final = ", ".join((*_TARGETS, "the numbers of design.parameters"))
"""Where a value can be used, in words."""


def type_of(field: str) -> str:
    """The type of the values that a field of a design takes; empty if it takes none.

    Args:
        field: As `KitSpec` has it, such as `design.parameters[0].low`.
    """
    if _PARAMETER.fullmatch(field):
        return NUMBER
    return _TARGETS[field][0] if field in _TARGETS else ""


def stages_of(field: str, spec: pipeline_pb2.KitSpec) -> Iterator[tuple[str, str]]:
    """The stages that have a field, and where in their specs.

    Args:
        field: As `KitSpec` has it.
        spec: The design, without the values.
    """
    if match := _PARAMETER.fullmatch(field):
        inner = "fixed.number_value" if match[2] == "fixed" else match[2]
        yield DESIGN, f"design.parameters[{match[1]}].{inner}"
        return
    for stage, place in _TARGETS[field][1]:
        # A design with a seed of its own does not take the kit's.
        if field != "seed" or stage != DESIGN or spec.design.seed in (0, spec.seed):
            yield stage, place


def with_bounds(options: Mapping[str, Any], is_reference: Any) -> dict[str, Any]:
    """The options with `[low, high]` as a mapping where one of both is a reference."""
    design = options.get("design")
    parameters = design.get("parameters") if isinstance(design, Mapping) else None
    if not isinstance(design, Mapping) or not isinstance(parameters, Mapping):
        return dict(options)
    changed = {}
    for name, setting in parameters.items():
        if isinstance(setting, list) and len(setting) == 2 and any(map(is_reference, setting)):
            setting = {"low": setting[0], "high": setting[1]}
        elif is_reference(setting):
            setting = {"fixed": setting}
        changed[name] = setting
    return {**options, "design": {**design, "parameters": changed}}
