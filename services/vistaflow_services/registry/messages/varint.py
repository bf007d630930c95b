"""Numbers and lengths as protobuf writes them."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """A non-negative number as protobuf writes it."""
    if number < len(_SMALL):
        return _SMALL[number]
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL: list[bytes] = []
# Most are lengths of short texts.
_SMALL = [varint(number) for number in range(1 << 12)]
