"""How large a request may be, found out before it is parsed.

Parsing holds the event loop up, and so does whatever reads the parsed message; the length of the
bytes is known for nothing. So a request that is too large is refused by its length, and the few
kinds of request that may be large can be looked at field by field first: `fields` walks over the
bytes of a message without making objects of what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor

from vistaflow_services.core.errors import FieldViolation, InvalidError, field_error
from vistaflow_services.core.message_limits import NESTING, REQUEST_BYTES

FIELDS_SEEN = 2_000
"""Fields looked at to find the largest one, or one that is nested too deep."""

_JSON = "google.protobuf."
_LEVELS = frozenset({"google.protobuf.Struct", "google.protobuf.ListValue"})

Check = Callable[[bytes], None]
"""Looks at a request in wire form; raises `InvalidError` if it is not to be parsed."""

_VARINT, _FIXED64, LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


class Malformed(InvalidError):
    """The bytes are not the message that the method takes."""

    reason = "MALFORMED"

    def __init__(self) -> None:
        super().__init__(
            "the bytes are not a request message of this method, or are nested too deep "
            f"(JSON: {NESTING} levels at most); client and service may have different versions"
        )


def fields(
    data: bytes, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """The length-delimited fields of a message in wire form.

    Ends early where the bytes are no message: the parser says so.

    Yields:
        The field's number, where its tag begins, and where its content begins and ends.
    """
    end = len(data) if end is None else end
    position = start
    try:
        while position < end:
            place = position
            tag = data[position]
            position += 1
            if tag > 0x7F:
                tag, position = _varint(data, position - 1)
            kind = tag & 7
            if kind == LENGTH_DELIMITED:
                size = data[position]
                position += 1
                if size > 0x7F:
                    size, position = _varint(data, position - 1)
                yield tag >> 3, place, position, min(position + size, end)
                position += size
            elif kind == _VARINT:
                while data[position] > 0x7F:
                    position += 1
                position += 1
            elif kind == _FIXED64:
                position += 8
            elif kind == _FIXED32:
                position += 4
            else:
                return
    except IndexError:
        return


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value, position
        shift += 7


def check_size(method: str, data: bytes, limit: int = REQUEST_BYTES) -> None:
    """Refuses a request that is too large, under the name of its largest field.

    Raises:
        InvalidError: It is.
    """
    if len(data) <= limit:
        return
    kind = _request_type(method)
    field = _largest_field(kind, data, 0, len(data)) if kind is not None else ""
    text = (
        f"the request is {len(data):,} bytes; at most {limit:,} are allowed: "
        "send several smaller requests"
    )
    raise InvalidError(
        f"{field}: {text}" if field else text,
        reason="REQUEST_TOO_LARGE",
        violations=[FieldViolation(field=field, description=text)] if field else (),
    )


def unread(method: str, data: bytes) -> InvalidError:
    """Why a request cannot be parsed: under its field, if its JSON is nested too deep."""
    kind = _request_type(method)
    return unread_message(kind, data) if kind is not None else Malformed()


def unread_message(
    kind: Descriptor, data: bytes, start: int = 0, end: int | None = None, name: str = ""
) -> InvalidError:
    """Why a message in wire form cannot be parsed.

    Args:
        kind: What it should be.
        data: It is in these bytes,
        start: from here
        end: to here.
        name: What it is called in the request; empty for the request itself.
    """
    field = _deep_field(kind, data, start, len(data) if end is None else end, name)
    if not field:
        return Malformed()
    text = f"is nested deeper than {NESTING} levels; store nested data as an artifact instead"
    return field_error(field, text)


def _deep_field(kind: Descriptor, data: bytes, start: int, end: int, name: str) -> str:
    """The field whose objects and lists are nested too deep; empty if none is found soon."""
    seen = 0
    left = [(kind, start, end, name, 0)]
    while left:
        kind, start, end, name, levels = left.pop()
        levels += kind.full_name in _LEVELS
        if levels > NESTING:
            return name
        places: dict[int, int] = {}
        for number, _, begin, over in fields(data, start, end):
            place = places[number] = places.get(number, -1) + 1
            seen += 1
            if seen > FIELDS_SEEN:
                return ""
            field = kind.fields_by_number.get(number)
            if field is None or field.message_type is None:
                continue
            below = name
            if not kind.full_name.startswith(_JSON) and not kind.GetOptions().map_entry:
                below = f"{name}.{field.name}" if name else field.name
                if field.is_repeated and not field.message_type.GetOptions().map_entry:
                    below += f"[{place}]"
            left.append((field.message_type, begin, over, below, levels))
    return ""


def _largest_field(kind: Descriptor, data: bytes, start: int, end: int) -> str:
    """The field that takes most of the first bytes of a message; empty if it is not known.

    Where one message takes most of the field, it is the field in that: `states[2].metadata`.
    """
    sizes: dict[int, int] = {}
    counts: dict[int, int] = {}
    largest = (0, 0, 0, 0)
    for seen, (number, _, begin, over) in enumerate(fields(data, start, end)):
        sizes[number] = sizes.get(number, 0) + over - begin
        largest = max(largest, (over - begin, counts.get(number, 0), begin, over))
        counts[number] = counts.get(number, 0) + 1
        if seen >= FIELDS_SEEN:
            break
    numbers = [number for number in sizes if number in kind.fields_by_number]
    if not numbers:
        return ""
    number = max(numbers, key=sizes.__getitem__)
    field = kind.fields_by_number[number]
    size, place, begin, over = largest
    below = field.message_type
    if below is None or below.GetOptions().map_entry or 2 * size < sizes[number]:
        return field.name
    name = f"{field.name}[{place}]" if field.is_repeated else field.name
    if below.full_name.startswith("google.protobuf."):
        return name
    inner = _largest_field(below, data, begin, over)
    return f"{name}.{inner}" if inner else name


def _request_type(method: str) -> Descriptor | None:
    service, _, name = method.lstrip("/").rpartition("/")
    try:
        input_type: Descriptor = (
            descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
        )
    except KeyError:
        return None
    return input_type
