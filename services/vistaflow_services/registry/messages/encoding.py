"""Conversion between a protobuf Struct and JSON text, without the detour of the library.

Equal Structs give equal texts: keys are sorted, whole numbers are written as such (`17`, not
`17.0`), and -0.0, which the database cannot store, as `0`. Recorded JSON beyond today's limits is
truncated and marked, so that it does not prevent reading.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from google.protobuf import struct_pb2

from vistaflow_services.core.message_limits import KIT_SPEC_BYTES, NESTING, is_deep
from vistaflow_services.registry.messages.numbers import InexactError, may_be_rounded
from vistaflow_services.registry.messages.varint import varint

# The C function behind json.dumps(..., ensure_ascii=False) for a text.
quoted: Callable[[str], str] = json.encoder.encode_basestring

TRUNCATED = "_truncated"
"""The key that marks truncated JSON."""

# The database writes a blank after every comma and colon, which the limit does not count.
_LONGEST = 2 * KIT_SPEC_BYTES


_BY_KEY = itemgetter(0)
_DEEP = f"is nested deeper than the {NESTING} levels that every client reads"


def struct_text(
    message: struct_pb2.Struct, levels: int = NESTING, *, numbers_checked: bool = True
) -> str:
    """A Struct as JSON text.

    Args:
        message: The Struct.
        levels: How deep objects and lists may be nested.
        numbers_checked: Whether its numbers are known not to be rounded.

    Raises:
        InexactError: One of them may have been rounded.
        ValueError: It holds NaN or an infinity, or is nested too deep.
    """
    if not levels:
        raise ValueError(_DEEP)
    parts = [
        f"{quoted(key)}:{_text(value, levels - 1, numbers_checked)}"
        for key, value in sorted(message.fields.items(), key=_BY_KEY)
    ]
    return "{" + ",".join(parts) + "}"


def _text(value: struct_pb2.Value, levels: int, numbers_checked: bool) -> str:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return quoted(value.string_value)
    if kind == "number_value":
        number = value.number_value
        if number - number != 0.0:
            raise ValueError("holds NaN or an infinity, which JSON does not allow")
        if not numbers_checked and may_be_rounded(number):
            raise InexactError
        # Adding 0.0 makes -0.0 0.0 and leaves all others as they are.
        return repr(number + 0.0).removesuffix(".0")
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "struct_value":
        return struct_text(value.struct_value, levels, numbers_checked=numbers_checked)
    if kind == "list_value":
        if not levels:
            raise ValueError(_DEEP)
        items = [_text(item, levels - 1, numbers_checked) for item in value.list_value.values]
        return "[" + ",".join(items) + "]"
    return "null"


def readable(text: str) -> dict[str, Any]:
    """A JSON object that every client can read: truncated and marked if it is beyond the limits."""
    if len(text) > _LONGEST:
        return {TRUNCATED: f"{len(text):,} characters are too many to send; the database has them"}
    value: dict[str, Any] = json.loads(text)
    # Few have as many brackets as it takes to nest too deep.
    if text.count("{") + text.count("[") > NESTING and is_deep(value):
        value = _shallow(value, NESTING)
        value[TRUNCATED] = f"values nested more than {NESTING} levels deep are null here"
    return value


def _shallow(value: Any, levels: int) -> Any:
    if isinstance(value, dict):
        if levels:
            return {key: _shallow(item, levels - 1) for key, item in value.items()}
        return None
    if isinstance(value, list):
        return [_shallow(item, levels - 1) for item in value] if levels else None
    return value


_KEY, _VALUE = (varint(number << 3 | 2) for number in (1, 2))
_NULL, _TRUE, _FALSE = b"\x08\x00", b"\x20\x01", b"\x20\x00"
_STRING, _STRUCT, _LIST = (varint(number << 3 | 2) for number in (3, 5, 6))
_number: Callable[[int, float], bytes] = struct.Struct("<Bd").pack
_NUMBER = 2 << 3 | 1


def struct_bytes(value: Mapping[str, Any]) -> bytes:
    """A JSON object as a Struct in wire form."""
    parts: list[bytes] = []
    for key, field_value in value.items():
        name, content = _key(key), _value_bytes(field_value)
        length = varint(len(content))
        parts += (
            _KEY, varint(len(name) + 1 + len(length) + len(content)),
            name, _VALUE, length, content,
        )  # fmt: skip
    return b"".join(parts)


@lru_cache(4096)
def _key(key: str) -> bytes:
    text = key.encode()
    return _KEY + varint(len(text)) + text


def _value_bytes(value: Any) -> bytes:
    kind = type(value)
    content: bytes
    if kind is str:
        content = value.encode()
        return _STRING + varint(len(content)) + content
    if kind is int or kind is float:
        return _number(_NUMBER, value)
    if kind is bool:
        return _TRUE if value else _FALSE
    if value is None:
        return _NULL
    if kind is dict:
        content = struct_bytes(value)
        return _STRUCT + varint(len(content)) + content
    items = [_value_bytes(item) for item in value]
    content = b"".join(_KEY + varint(len(item)) + item for item in items)
    return _LIST + varint(len(content)) + content
