"""JSON and query parameters to messages, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vistaflow_services.core.errors import FieldViolation, InvalidError, cut

_SCALARS: Final = frozenset(
    {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"}
)
"""Messages that JSON writes as texts."""

_FIELD: Final = re.compile(r'no field named "([^"]{1,100})"|parse ([\w.]+(?:\[\d+\])?) field')


def to_json(message: Message) -> str:
    """A message as proto JSON, with the names of the proto."""
    return json_format.MessageToJson(
        message, indent=None, preserving_proto_field_name=True, ensure_ascii=False
    )


def to_values(message: Message) -> dict[str, Any]:
    """The same as Python values."""
    values: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return values


def parsed_json(body: bytes) -> dict[str, Any]:
    """The object in a body; an empty body is an empty object.

    Raises:
        InvalidError: It is no JSON object; says where.
    """
    try:
        value = json.loads(body) if body.strip() else {}
    except json.JSONDecodeError as error:
        raise invalid(
            "body", f"is no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except (ValueError, RecursionError):
        raise invalid("body", "is no JSON in UTF-8, or is nested too deeply") from None
    if not isinstance(value, dict):
        raise invalid("body", "has to be a JSON object")
    return value


def message_from(descriptor: Descriptor, values: Mapping[str, Any]) -> Any:
    """A message of JSON values.

    Raises:
        InvalidError: They do not fit; names the field.
    """
    message = GetMessageClass(descriptor)()
    try:
        json_format.ParseDict(dict(values), message)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        text = cut(str(error).partition("\n")[0], 300)
        match = _FIELD.search(text)
        raise invalid((match and (match[1] or match[2])) or "body", text) from None
    return message


def values_of(descriptor: Descriptor, parameters: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The JSON values of query parameters such as `filter.kit_ids=7&labels.team=shop`.

    Raises:
        InvalidError: A field does not exist, or does not take such a value.
    """
    values: dict[str, Any] = {}
    for name, text in parameters:
        _set(values, descriptor, name, name.split("."), text)
    return values


def _set(
    values: dict[str, Any], descriptor: Descriptor, name: str, path: list[str], text: str
) -> None:
    field = descriptor.fields_by_name.get(path[0]) or descriptor.fields_by_camelcase_name.get(
        path[0]
    )
    if field is None:
        known = ", ".join(sorted(descriptor.fields_by_name)) or "none"
        raise invalid(cut(name, 100), f"no such parameter; known are {known}")
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        if len(path) < 2:
            raise invalid(name, f"write {path[0]}.KEY=VALUE")
        value = kind.fields_by_name["value"]
        values.setdefault(field.name, {})[".".join(path[1:])] = _value(value, name, text)
    elif kind is not None and kind.full_name not in _SCALARS:
        if len(path) < 2 or field.is_repeated:
            raise invalid(name, "takes an object: send it in the body of a POST")
        _set(values.setdefault(field.name, {}), kind, name, path[1:], text)
    elif len(path) > 1:
        raise invalid(name, f"{path[0]} has no fields")
    elif field.is_repeated:
        values.setdefault(field.name, []).append(_value(field, name, text))
    elif field.name in values:
        raise invalid(name, "is given twice")
    else:
        values[field.name] = _value(field, name, text)


def _value(field: FieldDescriptor, name: str, text: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text not in ("true", "false", "1", "0"):
            raise invalid(name, "is true or false")
        return text in ("true", "1")
    if field.enum_type is not None:
        known = field.enum_type.values_by_name
        prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        for word in (text, f"{prefix}{text.upper()}"):
            if word in known:
                return word
        words = ", ".join(value.removeprefix(prefix) for value in known if value != prefix)
        raise invalid(name, f"is one of {words}")
    return text


def invalid(field: str, description: str) -> InvalidError:
    """The error about one field."""
    violation = FieldViolation(field=field, description=description)
    return InvalidError(f"{field}: {description}", violations=[violation])
