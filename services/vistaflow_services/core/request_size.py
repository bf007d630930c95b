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

from vistaflow_services.core.errors import FieldViolation, InvalidError

MAX_REQUEST_BYTES = 15 << 18
"""Largest request that is parsed, 3.75 MiB: gRPC's default limit of 4 MiB less a margin."""

REFUSED_BYTES = 20 << 20
"""Largest request that is received: it is refused with its field named, not by gRPC."""

FIELDS_SEEN = 2_000
"""Fields looked at to find the largest one."""

Check = Callable[[bytes], None]
"""Looks at a request in wire form; raises `InvalidError` if it is not to be parsed."""

_VARINT, _FIXED64, LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


class Malformed(InvalidError):
    """The bytes are not the message that the method takes."""

    reason = "MALFORMED"

    def __init__(self) -> None:
        super().__init__(
            "the bytes are not the message this method takes; are both sides of one version?"
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
    at = start
    try:
        while at < end:
            place = at
            tag = data[at]
            at += 1
            if tag > 0x7F:
                tag, at = _varint(data, at - 1)
            kind = tag & 7
            if kind == LENGTH_DELIMITED:
                size = data[at]
                at += 1
                if size > 0x7F:
                    size, at = _varint(data, at - 1)
                yield tag >> 3, place, at, min(at + size, end)
                at += size
            elif kind == _VARINT:
                while data[at] > 0x7F:
                    at += 1
                at += 1
            elif kind == _FIXED64:
                at += 8
            elif kind == _FIXED32:
                at += 4
            else:
                return
    except IndexError:
        return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value, at
        shift += 7


def check_size(method: str, data: bytes, limit: int = MAX_REQUEST_BYTES) -> None:
    """Refuses a request that is too large, under the name of its largest field.

    Raises:
        InvalidError: It is.
    """
    if len(data) <= limit:
        return
    field = _largest_field(method, data)
    text = (
        f"the request is {len(data):,} bytes, and at most {limit:,} are taken: "
        "send less in one, or several"
    )
    raise InvalidError(
        f"{field}: {text}" if field else text,
        reason="REQUEST_TOO_LARGE",
        violations=[FieldViolation(field=field, description=text)] if field else (),
    )


def _largest_field(method: str, data: bytes) -> str:
    """The field that takes most of the first bytes of a request; empty if it is not known."""
    sizes: dict[int, int] = {}
    for seen, (number, _, start, end) in enumerate(fields(data)):
        sizes[number] = sizes.get(number, 0) + end - start
        if seen >= FIELDS_SEEN:
            break
    kind = _request_type(method)
    names = {field.number: field.name for field in kind.fields} if kind is not None else {}
    known = [number for number in sizes if number in names]
    return names[max(known, key=sizes.__getitem__)] if known else ""


def _request_type(method: str) -> Descriptor | None:
    service, _, name = method.lstrip("/").rpartition("/")
    try:
        found: Descriptor = (
            descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
        )
    except KeyError:
        return None
    return found
