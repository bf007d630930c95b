"""deck.yaml as a JSON Schema, written from the forms that the checks use.

A schema sees values alone: whatever relates two of them by more than their presence (low below
high, a default within a range, names that differ, files that exist) is left to the checks. What the
checks accept, the schema accepts, but for names such as `inf` that YAML 1.2 reads as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from vistaflow_services.decks.definition import Policy
from vistaflow_services.decks.expressions import RESERVED
from vistaflow_services.decks.files.forms import (
    AMOUNT,
    DECK,
    FLAG_TYPE,
    OTHER_SOURCES,
    PARAMETER,
    RANGED,
    SOURCE_KEYS,
    SOURCES,
    AmountsForm,
    ChoicesForm,
    EntriesForm,
    FilesForm,
    FlagForm,
    Form,
    FormulasForm,
    NameForm,
    NumberForm,
    QuantityForm,
    RangeForm,
    TableForm,
    TextForm,
    TextsForm,
    ValueForm,
    WordForm,
)
from vistaflow_services.decks.parameter import NAME, Scale

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
"""The version of JSON Schema that editors know."""

Schema = dict[str, Any]


def deck_schema() -> Schema:
    """The JSON Schema of deck.yaml."""
    schema = _of(DECK)
    properties = schema["properties"]
    properties["parameters"]["items"]["allOf"] = _parameter_rules()
    properties["failure"]["allOf"] = _failure_rules()
    schema["allOf"] = _simulator_rules()
    return {"$schema": DIALECT, "title": "vistaflow deck.yaml", **schema}


def _of(form: Form) -> Schema:
    """The schema of one form; null where the checks read an empty value as a default."""
    return {"description": form.about, **_shape(form)}


def _shape(form: Form) -> Schema:
    match form:
        case NameForm():
            # A name may be `true`: texts are read as they are written.
            pattern = _spaced(form.pattern)
            return {
                "type": ["string", "boolean"],
                "pattern": pattern,
                "maxLength": form.longest,
                "not": {"enum": sorted(RESERVED)},
            }
        case TextForm():
            types = ["string", "number", "boolean", "null"]
            text: Schema = {"type": types, "maxLength": form.longest}
            if form.pattern:
                text = {"type": ["string", "boolean", "null"], "maxLength": form.longest}
                text["pattern"] = _spaced(f"({form.pattern})?")
            return text
        case WordForm():
            if not form.fallback:
                return {"enum": [str(word) for word in form.words]}
            words = [str(word) for word in form.words]
            return {"enum": [*words, None], "default": str(form.fallback)}
        case RangeForm():
            end: Schema = {"type": ["number", "null"] if form.open_ended else "number"}
            return {"type": "array", "items": end, "minItems": 2, "maxItems": 2}
        case ChoicesForm():
            text = {"type": "string", "minLength": 1, "maxLength": 64}
            return {
                "type": "array",
                "maxItems": form.most,
                "uniqueItems": True,
                "anyOf": [{"items": text}, {"items": {"type": "number"}}],
            }
        case ValueForm():
            return {"type": ["string", "number", "null"]}
        case NumberForm():
            number: Schema = {"type": "integer" if form.whole else "number"}
            if math.isfinite(form.low):
                number |= {"minimum": form.low, "maximum": form.high}
            return number
        case QuantityForm():
            units = [_any_case(unit) if form.any_case else unit for unit in form.units]
            pattern = rf"^[0-9]+(\.[0-9]+)?\s*({'|'.join(units)})$"
            low = {"exclusiveMinimum" if form.above else "minimum": form.low}
            return {
                "anyOf": [
                    {"type": "number", **low, "maximum": form.high},
                    {"type": "string", "pattern": pattern},
                ],
                "default": form.fallback,
            }
        case FlagForm():
            return {"type": "boolean", "default": False}
        case FormulasForm():
            return {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": form.most}
        case TextsForm():
            item = {"type": ["string", "number", "boolean"], "maxLength": form.longest}
            return {"type": "array", "items": item, "maxItems": form.most}
        case FilesForm():
            path = {"type": "string", "minLength": 1, "maxLength": 200}
            paths = {"type": "array", "items": path, "minItems": 1, "uniqueItems": True}
            return {"anyOf": [path, paths]}
        case AmountsForm():
            return {
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{NAME.pattern}$"},
                "additionalProperties": _shape(AMOUNT),
            }
        case EntriesForm():
            return {
                "type": "array",
                "items": _of(form.entry),
                "minItems": 1,
                "maxItems": form.most,
            }
        case TableForm():
            table: Schema = {
                # An empty mapping is a default where no key is required.
                "type": "object" if form.required else ["object", "null"],
                "additionalProperties": False,
                "properties": {key: _of(part) for key, part in form.keys.items()},
            }
            return table | ({"required": list(form.required)} if form.required else {})
    raise TypeError(f"a form without a schema: {type(form).__name__}")


def _simulator_rules() -> list[Schema]:
    """Each simulator has the key that says what it runs, and not those of others."""
    rules = []
    for simulator, own in SOURCES.items():
        others = OTHER_SOURCES.get(simulator, ())
        then: Schema = {
            "properties": {
                own: {"type": _NOT_NULL},
                **{key: False for key in SOURCE_KEYS if key not in (own, *others)},
            },
        }
        if "testbenches" in others:
            then["anyOf"] = [{"required": [own]}, {"required": ["testbenches"]}]
        else:
            then["required"] = [own]
        if simulator == "function":
            then["properties"]["noisy"] = {"const": False}
            then["properties"]["keep_files"] = {"const": False}
        if simulator != "ngspice":
            then["properties"]["points_per_process"] = {"const": 1}
        rules.append(_if({"simulator": {"const": simulator}}, then))
    return rules


def _parameter_rules() -> list[Schema]:
    """Ranges and choices by type; an empty type is that of the default."""
    ranged = [str(kind) for kind in RANGED]
    chosen = [word for word in _words(PARAMETER, "type") if word not in (*ranged, FLAG_TYPE)]
    return [
        {
            **_if({"type": {"enum": chosen}}, _CHOICES, required=["type"]),
            "else": _if(
                {"type": {"const": FLAG_TYPE}},
                {"properties": {"range": False, "scale": False, "step": False}},
                required=["type"],
            )
            | {"else": {"required": ["range"], "properties": {"choices": {"maxItems": 0}}}},
        },
        _if(
            {"type": {"const": "integer"}},
            {"properties": {"range": {"items": {"type": "integer"}}}},
            required=["type"],
        ),
        _if(
            {"scale": {"const": str(Scale.LOG)}},
            {"properties": {"range": {"items": {"exclusiveMinimum": 0}}}},
            required=["scale"],
        ),
    ]


def _failure_rules() -> list[Schema]:
    """Substitutes go with their policy and with no other."""
    values = {"type": "object", "minProperties": 1}
    return [
        {
            **_if(
                {"policy": {"const": str(Policy.SUBSTITUTE)}},
                {"required": ["substitute"], "properties": {"substitute": values}},
                required=["policy"],
            ),
            "else": {"properties": {"substitute": {"maxProperties": 0}}},
        }
    ]


_NOT_NULL: Final = ["string", "boolean", "array", "object"]
_CHOICES: Final[Schema] = {
    "required": ["choices"],
    "properties": {
        "choices": {"minItems": 2},
        "range": False,
        "step": False,
        "scale": {"enum": [str(Scale.LINEAR), None]},
    },
}


def _if(
    properties: Mapping[str, Any], then: Schema, *, required: list[str] | None = None
) -> Schema:
    """`then` where properties have these values."""
    condition: Schema = {"properties": dict(properties)}
    return {"if": condition | ({"required": required} if required else {}), "then": then}


def _words(table: TableForm, key: str) -> list[str]:
    form = table.keys[key]
    assert isinstance(form, WordForm)
    return [str(word) for word in form.words]


def _spaced(pattern: str) -> str:
    """A pattern for the whole of a text, whatever spaces are about it: they are dropped."""
    return rf"^\s*{pattern}\s*$"


def _any_case(word: str) -> str:
    return "".join(f"[{letter}{letter.lower()}]" for letter in word)
