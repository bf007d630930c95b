"""Messages that fit a descriptor and are meant to hurt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

DEPTH = 4

MAX_INT32, MAX_INT64 = 2**31 - 1, 2**63 - 1
NAN, INFINITY = float("nan"), float("inf")

BAD_STRINGS = {"nul": "a\x00b", "long": "x" * 1_000_000, "escape": "a\x1b[2Jb"}
"""Text that is refused wherever it stands."""
ODD_STRINGS = {
    "bidi": "a\u202eb\u2066c",
    "path": "../../../etc/passwd",
    "percent": "%00%2e%2e%2f",
    "sql": "'; DROP TABLE kits; --",
    "format": "%s%n{0}{{",
    "blank": " ",
    "wide": "\U0010ffff\ufeff\u0000"[:2],
    "nothing": "",
    "uuid in braces": "{00000000-0000-4000-8000-000000000000}",
    "uuid in capitals": "ABCDEF00-0000-4000-8000-000000000000",
    "digits of another script": "\u0661\u0662",
    "number": "1e999999999",
    "token": "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
}
"""Text that is refused or taken as it is, but never understood."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One message, with one field that is wrong."""

    path: str
    what: str
    message: Any
    refused: bool
    """Whether it must be refused under the name of its field."""


def attacks(base: Any) -> Iterator[Attack]:
    """For each field of a good message, at any depth, each value that it must withstand."""
    for path, fields in _paths(base.DESCRIPTOR, (), DEPTH):
        leaf = fields[-1]
        for what, value, refused in _values(leaf):
            message = type(base)()
            message.CopyFrom(base)
            _put(message, fields, value)
            yield Attack(path=path, what=what, message=message, refused=refused)


def anything(kind: Descriptor, chance: random.Random, depth: int = DEPTH) -> Any:
    """A message in which any field may hold anything."""
    message = kind._concrete_class()
    for field in kind.fields:
        if chance.random() < 0.5:
            continue
        for _ in range(chance.choice((1, 1, 1, 2)) if field.is_repeated else 1):
            if field.message_type is None or _is_map(field) or _well_known(field):
                *_, last = values = list(_values(field))
                value = chance.choice(values)[1] if chance.random() < 0.5 else _plain(field, chance)
                _put(message, (field,), last[1] if value is None else value)
            elif depth:
                made = anything(field.message_type, chance, depth - 1)
                if field.is_repeated:
                    getattr(message, field.name).append(made)
                else:
                    getattr(message, field.name).CopyFrom(made)
    return message


def _paths(
    kind: Descriptor, above: tuple[FieldDescriptor, ...], depth: int
) -> Iterator[tuple[str, tuple[FieldDescriptor, ...]]]:
    for field in kind.fields:
        fields = (*above, field)
        if field.message_type is not None and not _is_map(field) and not _well_known(field):
            if depth:
                yield from _paths(field.message_type, fields, depth - 1)
            continue
        yield ".".join(_step(each) for each in fields), fields


def _step(field: FieldDescriptor) -> str:
    return f"{field.name}[0]" if field.is_repeated and not _is_map(field) else field.name


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def _well_known(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name.startswith(
        "google.protobuf."
    )


def _put(message: Any, fields: tuple[FieldDescriptor, ...], value: Any) -> None:
    for field in fields[:-1]:
        message = getattr(message, field.name)
        if field.is_repeated:
            message = message[-1] if message else message.add()
        else:
            message.SetInParent()
    field = fields[-1]
    if _is_map(field):
        held = getattr(message, field.name)
        for key, each in value.items():
            if field.message_type.fields_by_name["value"].message_type is None:
                held[key] = each
            else:
                held[key].CopyFrom(each)
    elif field.message_type is not None:
        target = getattr(message, field.name)
        if field.is_repeated:
            target = target.add()
        target.SetInParent()
        value(target)
    elif field.is_repeated:
        getattr(message, field.name)[:] = [value]
    else:
        setattr(message, field.name, value)


def _values(field: FieldDescriptor) -> Iterator[tuple[str, Any, bool]]:
    """What a field is attacked with: its name, the value, whether it must be refused."""
    if _is_map(field):
        yield from _map_values(field)
    elif field.message_type is not None:
        yield from _well_known_values(field.message_type)
    elif field.enum_type is not None:
        for number in (9_999, -1, MAX_INT32):
            yield f"enum {number}", number, True
    elif field.type == FieldDescriptor.TYPE_STRING:
        for name, text in BAD_STRINGS.items():
            yield name, text, True
        for name, text in ODD_STRINGS.items():
            yield name, text, False
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield "garbage", bytes(range(256)) * 16, False
    elif field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        for number in (NAN, INFINITY, -INFINITY):
            yield str(number), number, True
        for number in (0.0, -0.0, 5e-324, -1.0, 1e308, -1e308):
            yield str(number), number, False
    elif field.cpp_type == FieldDescriptor.CPPTYPE_INT64:
        yield "least int64", -MAX_INT64 - 1, field.name != "seed"
        for number in (0, -1, 2**31, 2**53 + 1, MAX_INT64 - 1, MAX_INT64):
            yield f"int64 {number}", number, False
    elif field.cpp_type == FieldDescriptor.CPPTYPE_INT32:
        yield "least int32", -MAX_INT32 - 1, True
        for number in (0, -1, MAX_INT32 - 1, MAX_INT32):
            yield f"int32 {number}", number, False
    elif field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
        yield "largest uint64", 2**64 - 1, False
    elif field.cpp_type == FieldDescriptor.CPPTYPE_UINT32:
        yield "largest uint32", 2**32 - 1, False
    else:
        yield "true", True, False


def _map_values(field: FieldDescriptor) -> Iterator[tuple[str, Any, bool]]:
    inner = field.message_type.fields_by_name["value"]
    plain = inner.message_type._concrete_class() if inner.message_type else _some(inner)
    for name, text in BAD_STRINGS.items():
        yield f"{name} key", {text: plain}, True
    for name, text in ODD_STRINGS.items():
        yield f"{name} key", {text: plain}, False
    for what, value, refused in _values(inner):
        if inner.message_type is None:
            yield f"{what} value", {"k": value}, refused
        else:
            made = inner.message_type._concrete_class()
            value(made)
            yield f"{what} value", {"k": made}, refused
    yield "too many", {f"k{n}": plain for n in range(5_000)}, True


def _some(field: FieldDescriptor) -> Any:
    return "v" if field.type == FieldDescriptor.TYPE_STRING else 1


def _well_known_values(kind: Descriptor) -> Iterator[tuple[str, Any, bool]]:
    if kind.name == "Timestamp":
        for seconds, nanos in ((MAX_INT64, 0), (-MAX_INT64, 0), (0, -1), (0, MAX_INT32)):
            yield f"time {seconds}.{nanos}", _times(seconds, nanos), True
        for name, seconds, nanos in (
            ("first", -62_135_596_800, 0),
            ("last", 253_402_300_799, 999_999_999),
            ("epoch", 0, 0),
        ):
            yield f"{name} moment", _times(seconds, nanos), False
    elif kind.name == "Duration":
        for seconds, nanos in ((MAX_INT64, 0), (-MAX_INT64, 0), (-1, 0), (0, MAX_INT32)):
            yield f"duration {seconds}.{nanos}", _times(seconds, nanos), nanos == 0
        for seconds, nanos in ((0, 0), (0, 1), (1, -1), (1, 999_999_999), (315_576_000_000, 0)):
            yield f"duration {seconds}.{nanos}", _times(seconds, nanos), False
    elif kind.name in ("Struct", "Value"):
        deep = kind.name == "Struct"
        for what, number in (("nan", NAN), ("infinity", INFINITY)):
            yield what, _number(number, deep), True
        yield "nul", _text("a\x00b", deep), True
        yield "long", _text("x" * 1_000_000, deep), True
        yield "odd", _text("\u202e'; DROP TABLE kits; --", deep), False
        yield "deep", _deep(deep), False
        yield "nothing", lambda target: None, False
    elif kind.name == "Any":
        for name, text in BAD_STRINGS.items():
            yield f"{name} type", _any(text, b""), True
        yield "unknown type", _any("type.googleapis.com/no.Such", b"\xff"), False
        yield "no type", _any("", b"x"), True
        yield "garbage", _any("type.googleapis.com/google.protobuf.Struct", b"\xff\xff"), False


def _times(seconds: int, nanos: int) -> Any:
    def fill(target: Any) -> None:
        target.seconds, target.nanos = seconds, nanos

    return fill


def _number(number: float, deep: bool) -> Any:
    def fill(target: Any) -> None:
        (target.fields["k"] if deep else target).number_value = number

    return fill


def _text(text: str, deep: bool) -> Any:
    def fill(target: Any) -> None:
        (target.fields["k"] if deep else target).string_value = text

    return fill


def _deep(deep: bool) -> Any:
    def fill(target: Any) -> None:
        value = target.fields["k"] if deep else target
        for _ in range(30):
            value = value.list_value.values.add()
        value.string_value = "bottom"

    return fill


def _any(type_url: str, value: bytes) -> Any:
    def fill(target: Any) -> None:
        target.type_url, target.value = type_url, value

    return fill


def _plain(field: FieldDescriptor, chance: random.Random) -> Any:
    """Something harmless, so that what is behind the first check is reached too."""
    if _is_map(field) or field.message_type is not None:
        return None
    if field.enum_type is not None:
        return chance.choice([each.number for each in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_STRING:
        return "" if field.name in ("page_token", "request_id") else chance.choice(("a", "work"))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"x"
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return 0.5
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    return 1


def floods(base: Any, room: int) -> Iterator[tuple[str, Any]]:
    """For each list and map of a good message, so many entries that they fill the room."""
    seen = set()
    for _, fields in _paths(base.DESCRIPTOR, (), DEPTH):
        for depth, field in enumerate(fields, start=1):
            path = ".".join(each.name for each in fields[:depth])
            if not field.is_repeated or path in seen:
                continue
            seen.add(path)
            message = type(base)()
            message.CopyFrom(base)
            inside = message
            for each in fields[: depth - 1]:
                inside = getattr(inside, each.name)
                inside = inside.add() if each.is_repeated else inside
            _flood(inside, field, room)
            yield path, message


def _flood(message: Any, field: FieldDescriptor, room: int) -> None:
    held = getattr(message, field.name)
    if _is_map(field):
        inner = field.message_type.fields_by_name["value"]
        for number in range(room // 24):
            if inner.message_type is None:
                held[f"key-{number}"] = _some(inner)
            else:
                held[f"key-{number}"].SetInParent()
    elif field.message_type is not None:
        entry = held[0].SerializeToString() if held else b""
        kind = field.message_type._concrete_class
        del held[:]
        held.extend([kind.FromString(entry)] * (room // (len(entry) + 2)))
    elif field.type == FieldDescriptor.TYPE_STRING:
        held.extend(["ab"] * (room // 4))
    else:
        held.extend([1] * room)
