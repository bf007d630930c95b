"""Bytes that are no message, or not quite, at every call of every service."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from attacking import Suite, methods
from test_fields import base_of, good

SEED = 7


def spoilt(good_one: bytes, chance: random.Random) -> Iterator[bytes]:
    """Bytes for ever: random, cut, changed, joined, deep, unknown fields, wrong wire types."""
    while True:
        yield chance.randbytes(chance.choice((1, 3, 20, 300, 5_000)))
        body = good_one or b"\x08\x01"
        yield body[: chance.randrange(len(body))]
        changed = bytearray(body)
        for _ in range(chance.choice((1, 2, 8))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        yield bytes(changed)
        yield body * chance.choice((2, 50))
        number = chance.choice((1, 2, 3, 4, 5))
        inside = b""
        for _ in range(chance.choice((20, 99, 100, 101, 2_000))):
            inside = bytes([number << 3 | 2, *_varint(len(inside))]) + inside
        yield inside
        yield body + bytes(_varint(chance.randrange(100, 2**29) << 3 | 2)) + b"\x03abc"
        yield bytes([chance.randrange(1, 16) << 3 | chance.choice((0, 1, 3, 4, 5, 6, 7))]) + (
            chance.randbytes(12)
        )


def _varint(number: int) -> list[int]:
    made = []
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return [*made, number]


async def attacked(suite: Suite, count: int) -> int:
    chance = random.Random(SEED)
    known: dict[str, Any] = good(suite)
    wrong, sent = [], 0
    for method in methods():
        base = base_of(method, known, suite).SerializeToString()
        bodies = [body for body, _ in zip(spoilt(base, chance), range(count), strict=False)]
        outcomes = await suite.call_all([(method, (body,)) for body in bodies], seconds=3)
        wrong += [
            f"{method.name} {body[:40].hex()}: {each.bad}"
            for body, each in zip(bodies, outcomes, strict=True)
            if each.bad
        ]
        sent += len(bodies)
    assert not wrong, "\n".join(wrong)
    await suite.smoke()
    return sent


async def test_bytes_that_are_no_message_hurt_no_call(suite: Suite) -> None:
    assert await attacked(suite, 50) > 2_000


@pytest.mark.slow
async def test_a_thousand_times_bytes_that_are_no_message_hurt_no_call(suite: Suite) -> None:
    assert await attacked(suite, 1_000) > 45_000
