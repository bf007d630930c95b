"""The kit.yaml of a kit: what ran, with its defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.errors import FailedPreconditionError
from vistaflow.models import Kit

_RECORD = ("deck", "units")
"""Keys of the registry's record that are not as in a kit file."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines are written as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(value: Any) -> str:
    """A value as YAML, in its order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def kit_values(kit: Kit, deck: str = "") -> dict[str, Any]:
    """What the kit.yaml of a kit says.

    Args:
        kit: The kit.
        deck: How the file names the deck; if empty by its id, so that it is the same deck.

    Raises:
        FailedPreconditionError: It was not started from a kit file.
    """
    named = {"name": kit.name, "project": kit.project, "labels": dict(kit.labels)}
    if "jobs" in kit.spec:
        return {key: value for key, value in {**named, **kit.spec}.items() if value}
    if not isinstance(kit.spec.get("deck"), Mapping):
        raise FailedPreconditionError(f"kit {kit.kit_id} was not started from a kit file")
    spec = pipeline_pb2.KitSpec()
    record = {name: value for name, value in kit.spec.items() if name not in _RECORD}
    json_format.ParseDict(record, spec, ignore_unknown_fields=True)
    values = _plain(spec)
    return {"name": values.pop("name"), "deck": deck or kit.spec["deck"]["deck_id"], **values}


def kit_text(kit: Kit, deck: str = "") -> str:
    """The kit.yaml of a kit; see `kit_values`."""
    values = kit_values(kit, deck)
    text = yaml_text(values)
    if not deck and "deck" in values:
        about = f"{kit.spec['deck']['name']} {kit.spec['deck'].get('version', '')}".strip()
        text = text.replace(f"deck: {values['deck']}\n", f"deck: {values['deck']}  # {about}\n", 1)
    return text


def _plain(message: Message) -> dict[str, Any]:
    """The fields of a message as a kit file has them."""
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            values[field.name] = dict(sorted(value.items()))
        elif field.is_repeated and field.name == "parameters":
            values[field.name] = {override.name: _override(override) for override in value}
        elif field.is_repeated:
            values[field.name] = [_one(field, item) for item in value]
        else:
            values[field.name] = _one(field, value)
    return values


def _one(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type:
        return _word(field.enum_type, value)
    return _plain(value) if isinstance(value, Message) else value


def _word(enum: EnumDescriptor, number: int) -> str:
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return enum.values_by_number[number].name.removeprefix(prefix).lower()


def _override(override: common_pb2.ParameterOverride) -> Any:
    if override.HasField("fixed"):
        return _value(override.fixed)
    if override.HasField("low") and override.HasField("high"):
        return [override.low, override.high]
    ends = {name: getattr(override, name) for name in ("low", "high") if override.HasField(name)}
    choices = [_value(choice) for choice in override.choices]
    return {**ends, **({"choices": choices} if choices else {})}


def _value(value: Value) -> Any:
    plain = json_format.MessageToDict(value)
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain
