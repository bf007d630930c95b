"""JSON values read without losing a digit, and their text in a cell.

A number stays the text that it was. Integers that Python holds exactly become `int`, because the
decoder is fastest then; `decode` notices the few numbers for which that is not exact.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import msgspec

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.tables.brackets import has_minus_zero

MAX_DEPTH = 100
"""Most levels of objects and arrays of one record."""

_decode = msgspec.json.Decoder(float_hook=lambda text: Number(text)).decode
_encode_string = msgspec.json.Encoder().encode


class Number(str):
    """A number as the input spells it."""

    __slots__ = ()


class MalformedError(Exception):
    """A text is not one JSON value; the message says what is wrong, without the text."""


def decode(text: bytes) -> Any:
    """A JSON value: numbers exact, objects as dicts in the order of their keys.

    Raises:
        MalformedError: The text is not valid JSON.
    """
    try:
        return _decode_slowly(text) if has_minus_zero(text) else _decode(text)
    except msgspec.ValidationError:  # an integer of more digits than Python converts
        return _decode_slowly(text)
    except RecursionError:
        raise too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(reason_of(error)) from None


def _decode_slowly(text: bytes) -> Any:
    try:
        return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse)
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedError(reason_of(error)) from None
    except RecursionError:
        raise too_deep() from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def reason_of(error: Exception) -> str:
    """What a decoder complains of, without its positions, which are those of a piece."""
    if isinstance(error, UnicodeDecodeError):
        return "invalid UTF-8"
    text = re.sub(
        r"\s*[(:]?\s*(byte|line|at `).*$", "", str(error).removeprefix("JSON is malformed: ")
    )
    # The decoder speaks of surrogates as of texts that end.
    return "it ends early, or has half of a surrogate pair" if "truncated" in text else text


def too_deep() -> InvalidError:
    """The error of a record with more levels than `MAX_DEPTH`."""
    return InvalidError(
        f"a record has more than {MAX_DEPTH} levels of objects and arrays", reason="TOO_DEEP"
    )


def text_of(value: Any, depth: int = 1) -> str:
    """The text of a value in a cell: a string itself, anything else as compact JSON.

    Args:
        value: What `decode` gave.
        depth: Level that the value has if it is an array or object; the record is 1.
    """
    kind = value.__class__
    if kind is str or kind is Number:
        return str(value)
    return _compact(value, depth)


def _compact(value: Any, depth: int) -> str:
    kind = value.__class__
    if kind is str:
        return _encode_string(value).decode()
    if kind is Number:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if value is None:
        return "null"
    if kind is list:
        if depth > MAX_DEPTH:
            raise too_deep()
        return f"[{','.join([_compact(item, depth + 1) for item in value])}]"
    if kind is dict:
        if depth > MAX_DEPTH:
            raise too_deep()
        members = [
            f"{_encode_string(key).decode()}:{_compact(item, depth + 1)}"
            for key, item in value.items()
        ]
        return f"{{{','.join(members)}}}"
    return str(value)


def has_object(items: list[Any]) -> bool:
    """Whether an array has an object among its elements."""
    return any(item.__class__ is dict for item in items)
