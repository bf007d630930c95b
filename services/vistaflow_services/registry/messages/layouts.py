"""Flat metadata as JSON text, read from its wire form by the layout that earlier rows had.

The rows of a program have the same keys and other values. So nearly all bytes of their metadata are
the same ones at the same places, and one call of `struct` takes the values from between them: no
object is made for an entry, as it is when a message is read by its attributes. Only bytes that
protobuf itself serialized are read, and only those that are equal to a layout everywhere but in
values; everything else goes the usual way (`encoding.struct_text`), and the texts are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from google.protobuf import struct_pb2

from vistaflow_services.registry.messages.encoding import quoted
from vistaflow_services.registry.messages.varint import varint

LAYOUT_BYTES = 1024
"""Longest metadata, in wire form, that a layout is made for."""

MAX_LAYOUTS = 512
"""Layouts held; all are forgotten when there are more."""

ROWS_A_LAYOUT = 16
"""A layout costs as much as some rows, so only one of so many rows without one gets it."""

_EXACT = 2.0**53
"""Below it every whole number is exact. NaN and the infinities are not below it."""

_BEGIN = 7
"""Leading bytes by which layouts of the same length are found; no value begins so early."""

_ENTRY, _KEY, _VALUE = b"\x0a", b"\x0a", b"\x12"
_NUMBER, _STRING, _BOOL = b"\x11", b"\x1a", b"\x20"


class _Layout:
    """Where the values of flat metadata are, and how its text is made of them."""

    __slots__ = ("fixed", "size", "template", "unpack", "values")

    def __init__(self, form: str, fixed: tuple[bytes, ...], keys: list[str]) -> None:
        self.size = struct.calcsize(form)
        self.unpack: Callable[[bytes], tuple[Any, ...]] = struct.Struct(form).unpack
        self.fixed = fixed
        """The bytes before each value."""
        order = sorted(range(len(keys)), key=keys.__getitem__)
        places = [2 * place + 1 for place in order]
        # For a single place `itemgetter` would return no tuple.
        self.values: Callable[[tuple[Any, ...]], tuple[Any, ...]] = (
            itemgetter(*places) if len(places) > 1 else itemgetter(slice(1, None, 2))
        )
        names = (quoted(keys[place]).replace("%", "%%") for place in order)
        self.template = "{" + ",".join(f"{name}:%s" for name in names) + "}"

    def fits(self, data: bytes) -> bool:
        """Whether bytes are of this layout. Those with unknown fields are of none."""
        return len(data) == self.size and self.unpack(data)[::2] == self.fixed


class Layouts:
    """The layouts of the metadata that came last."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[int, bytes], _Layout] = {}
        self._missed = ROWS_A_LAYOUT - 1

    def text(self, message: struct_pb2.Struct, data: bytes) -> str | None:
        """The text that `struct_text` makes of a Struct; None if that has to make it.

        Args:
            message: The Struct.
            data: The same as protobuf serializes it.
        """
        layout = self._layouts.get((len(data), data[:_BEGIN]))
        if layout is not None:
            parts = layout.unpack(data)
            if parts[::2] == layout.fixed:
                return _text(layout, parts)
        if len(data) <= LAYOUT_BYTES:
            self._missed += 1
            if self._missed >= ROWS_A_LAYOUT:
                self._missed = 0
                self._learn(message, data)
        return None

    def _learn(self, message: struct_pb2.Struct, data: bytes) -> None:
        layout = _layout(message, data)
        if layout is None:
            return
        if len(self._layouts) >= MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[len(data), data[:_BEGIN]] = layout


def _text(layout: _Layout, parts: tuple[Any, ...]) -> str | None:
    texts: list[str | float] = []
    for value in layout.values(parts):
        kind = type(value)
        if kind is float:
            if not -_EXACT < value < _EXACT:
                return None
            # As in `encoding`: -0.0 becomes 0, and whole numbers are written as such.
            texts.append(int(value) if value.is_integer() else value)
        elif kind is bytes:
            texts.append(quoted(value.decode()))
        else:
            texts.append("true" if value else "false")
    return layout.template % tuple(texts)


def _layout(message: struct_pb2.Struct, data: bytes) -> _Layout | None:
    """The layout of a Struct; None if an entry is no number, text or truth value."""
    form: list[str] = []
    fixed: list[bytes] = []
    keys: list[str] = []
    for key, value in message.fields.items():
        kind = value.WhichOneof("kind")
        size = 1
        if kind == "number_value":
            size, tag, code = 8, _NUMBER, "d"
        elif kind == "string_value":
            size = len(value.string_value.encode())
            tag, code = _STRING + varint(size), f"{size}s"
        elif kind == "bool_value":
            tag, code = _BOOL, "?"
        else:
            return None
        name = key.encode()
        inner = _VALUE + varint(len(tag) + size) + tag
        begin = _KEY + varint(len(name)) + name
        before = _ENTRY + varint(len(begin) + len(inner) + size) + begin + inner
        form.append(f"{len(before)}s{code}")
        fixed.append(before)
        keys.append(key)
    # protobuf writes a map in the opposite order of reading it, but promises neither.
    for step in (-1, 1):
        layout = _Layout("<" + "".join(form[::step]), tuple(fixed[::step]), keys[::step])
        if layout.fits(data):
            return layout
    return None
