"""kit.yaml as a JSON Schema, written from the message that `kitfile` fills.

Keys, types and words come from the descriptor of KitSpec, limits from the domain. What depends on
the deck (names of parameters and responses, ranges, the size of a factorial) is left to the checks.
The words of enums are accepted in lower case, and in capitals with or without their prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.decks.definition import NO_RESPONSE
from vistaflow_services.decks.files.schema import DIALECT, Schema
from vistaflow_services.decks.parameter import NAME
from vistaflow_services.designs.recipe import MAX_SIZE
from vistaflow_services.pipeline.kitfile import (
    INTEGER_BITS,
    OVERRIDE_KEYS,
    REUSE_WORDS,
    enum_prefix,
    enum_words,
)
from vistaflow_services.pipeline.notify import ENDS, MAX_NOTIFY
from vistaflow_services.search.limits import MAX_BUDGET

ABOUT: Final = {
    "name": "The kit's name, for people: 1 to 200 characters.",
    "project": "The project it belongs to; `default` if left out.",
    "labels": "Keys and values to filter kits by.",
    "deck": "A shipped or collected deck by name, or a folder or archive beside this file.",
    "design": "How the points of the design are chosen, and how many.",
    "design.generator": "How the points are chosen; lhs_ese if left out.",
    "design.size": "How many points; 10 a parameter if left out. Not for full_factorial.",
    "design.seed": "Makes the design repeatable; the kit's seed if left out.",
    "design.parameters": "Narrower ranges: [low, high], one value, or {choices: [a, b]}.",
    "design.constraints": "Constraints beside the deck's, such as `l1 + l2 <= 4`.",
    "design.levels": "For full_factorial: levels of every parameter; 3 if left out.",
    "design.parameter_levels": "For full_factorial: levels of single parameters, by name.",
    "design.include_default": "Whether to add the deck's default point.",
    "evaluation": "How the design is run.",
    "evaluation.failure_policy": "What is done about failed runs; as the deck says if left out.",
    "evaluation.max_failed_fraction": "Part of the runs beyond which failures fail the job.",
    "ml": "How the surrogates are trained.",
    "ml.responses": "The responses to model; those that the goals name if left out.",
    "ml.test_fraction": "Part of the rows held out for the test, 0 to 0.9; 0.2 if left out.",
    "ml.outliers": "What is done about rows that stand out.",
    "ml.log_responses": "Responses to model in their logarithm; `none`: no response.",
    "ml.families": "The families of models to choose among; all if left out.",
    "ml.folds": "Folds of the cross-validation, 2 to 20; 5 if left out.",
    "goals": "One minimize or maximize, and constraints: one a line, a list, or separated by `;`.",
    "optimize": "How the design is optimised.",
    "optimize.budget": "Simulator runs beside the design's; 5 a parameter if left out.",
    "optimize.batch_size": "Runs proposed at a time, 1 to 64; one a core if left out.",
    "optimize.tolerance": "Stops when less than this part is expected to be gained; 0 if left out.",
    "stop_after": "The last stage to run; optimize if left out.",
    "seed": "Of the design, the split, the training and the optimisation; 0 if left out.",
    "notify": "Webhooks that get the end of the kit: names, or `webhook` and `events` "
    "(finished, failed, canceled).",
    "reuse": "Known points to take as rows: `all`, `kit 31`, `dataset NAME`, or a list of these.",
    "reuse.all": "Whether to take every point of the deck that was ever simulated.",
    "reuse.kits": "Kits whose points to take.",
    "reuse.datasets": "Datasets of points, such as bench or bench@3.",
    "reuse.only": "Whether the design makes no points beside them.",
    "extends": "The kit that this one extends; `vistaflow extend` sets it.",
    "max_attempts": "Attempts of each job that may be lost or crash, 1 to 100; 5 if left out.",
}
"""What each key is, by its path."""

_LIMITS: Final[dict[str, Schema]] = {
    "name": {"minLength": 1, "maxLength": 200},
    "seed": {"minimum": 0},
    "design.seed": {"minimum": 0},
    "design.size": {"minimum": 0, "maximum": MAX_SIZE},
    "optimize.budget": {"minimum": 0, "maximum": MAX_BUDGET},
    "evaluation.max_failed_fraction": {"minimum": 0, "maximum": 1},
}
"""What values are limited to, by path; 0 stands for a size or budget that is left out."""

_TEXT: Final = ["string", "number", "boolean"]
"""What a text may be in a file: it is read as it is written."""


def kit_schema() -> Schema:
    """The JSON Schema of kit.yaml."""
    schema = _message(pb.KitSpec.DESCRIPTOR, "")
    return {
        "$schema": DIALECT,
        "title": "vistaflow kit.yaml",
        "description": "One run of vistaflow: deck, design, surrogates and goals.",
        **schema,
        "required": ["name", "deck"],
    }


def _message(message: Descriptor, path: str) -> Schema:
    fields: dict[str, FieldDescriptor] = dict(message.fields_by_name)
    properties = {}
    for name, field in fields.items():
        place = f"{path}.{name}" if path else name
        schema = _SPECIAL[place]() if place in _SPECIAL else or_null(_field(field, place))
        properties[name] = {"description": ABOUT[place], **schema}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _field(field: FieldDescriptor, path: str) -> Schema:
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return {"type": "object", "additionalProperties": scalar_schema(value, path)}
    if field.is_repeated:
        items: Schema = {"type": "array", "items": scalar_schema(field, path)}
        if field.name == "log_responses":
            return {"anyOf": [items, {"const": NO_RESPONSE}]}
        return items
    if field.message_type:
        return _message(field.message_type, path)
    return scalar_schema(field, path) | _LIMITS.get(path, {})


def scalar_schema(field: FieldDescriptor, path: str) -> Schema:
    if field.enum_type:
        return _enum(field.enum_type)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return {"type": _TEXT}
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"type": "boolean"}
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return {"type": "number"}
    if field.cpp_type in INTEGER_BITS:
        most = 2 ** INTEGER_BITS[field.cpp_type] - 1
        return {"type": "integer", "minimum": -most, "maximum": most}
    raise TypeError(f"{path}: a field without a schema")


def _enum(enum: EnumDescriptor) -> Schema:
    words = list(enum_words(enum))
    capitals = "|".join(re.escape(word.upper()) for word in words)
    return {"anyOf": [{"enum": words}, {"pattern": f"^({enum_prefix(enum)})?({capitals})$"}]}


def or_null(schema: Schema) -> Schema:
    """The same with null: a key without a value is as good as none."""
    if isinstance(schema.get("type"), str | list):
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*types, "null"]}
    return {"anyOf": [*schema["anyOf"], {"type": "null"}]}


def _deck() -> Schema:
    text = {"type": "string"}
    source = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"name": text, "path": text},
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [text, source]}


def _goals() -> Schema:
    text = {"type": "string"}
    return {"anyOf": [text, {"type": "array", "items": text}, {"type": "null"}]}


def _parameters() -> Schema:
    number, value = {"type": "number"}, {"type": ["number", "string"]}
    forms = {
        "low": number,
        "high": number,
        "choices": {"type": "array", "items": value},
        "fixed": value,
    }
    override = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: forms[key] for key in OVERRIDE_KEYS},
    }
    pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    return {
        "type": ["object", "null"],
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"anyOf": [value, pair, override]},
    }


def _reuse() -> Schema:
    word = {"type": "string", "pattern": REUSE_WORDS.pattern}
    fields = _message(pb.KitReuse.DESCRIPTOR, "reuse")
    return {"anyOf": [word, {"type": "array", "items": word}, fields, {"type": "null"}]}


def _notify() -> Schema:
    text = {"type": "string"}
    events = {"anyOf": [{"enum": [*ENDS, *map(str.lower, ENDS)]}]}
    entry = {
        "type": "object",
        "additionalProperties": False,
        "required": ["webhook"],
        "properties": {"webhook": text, "events": {"type": "array", "items": events}},
    }
    entries = {"type": "array", "items": {"anyOf": [text, entry]}, "maxItems": MAX_NOTIFY}
    return {"anyOf": [text, entry, entries, {"type": "null"}]}


_SPECIAL: Final[dict[str, Callable[[], Schema]]] = {
    "notify": _notify,
    "reuse": _reuse,
    "deck": _deck,
    "goals": _goals,
    "design.parameters": _parameters,
}
"""What `kitfile` reads otherwise than by the type of its field."""


__all__ = ["ABOUT", "kit_schema"]
