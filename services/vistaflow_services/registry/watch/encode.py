"""Watch messages as bytes.

A row is serialised once, when the first watch needs it, and its bytes go into the messages of all
others, whatever their filters: protobuf allows to join the bytes of repeated fields. This
bounds the cost of many watchers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import off_loop
from vistaflow_services.core.message_limits import MESSAGE_BYTES
from vistaflow_services.registry.domain import Counts, kit_status
from vistaflow_services.registry.log.hub import Entry, Stretch
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.messages.varint import varint

INLINE_BYTES = 64 * 1024
"""Bytes of metadata from which on rows are serialised in a thread."""

_LENGTH_DELIMITED = 2
# What the counts of one kit take at most.
_COUNTS_BYTES = 64


def _tag(message: type, field: str, wire_type: int) -> bytes:
    number: int = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return varint(number << 3 | wire_type)


_STATES = _tag(pb.Delta, "states", _LENGTH_DELIMITED)
_LEFT = _tag(pb.Delta, "left", _LENGTH_DELIMITED)
_FOLDED = _tag(pb.Delta, "folded_count", 0)
_PARTIAL = _tag(pb.Delta, "partial", 0) + b"\x01"
_COUNTS = _tag(pb.Delta, "kit_counts", _LENGTH_DELIMITED)
_DELTA = _tag(pb.WatchStatesResponse, "delta", _LENGTH_DELIMITED)
_REVISION = _tag(pb.WatchStatesResponse, "revision", 0)
_NAME = _tag(pb.WatchManyResponse, "name", _LENGTH_DELIMITED)
_EVENT = _tag(pb.WatchManyResponse, "event", _LENGTH_DELIMITED)


async def encode(stretches: Iterable[Stretch]) -> None:
    """Serialises rows outside the event loop if that takes long."""
    cold = [entry for stretch in stretches for entry in stretch.entries if entry.wire is None]
    if sum(len(entry.row.metadata_json) for entry in cold) > INLINE_BYTES:
        await off_loop.reading.do(lambda: [_row(entry) for entry in cold])


def pieces(stretch: Stretch) -> list[Stretch]:
    """Cuts a stretch where appends end, so that each piece makes one message.

    One append that is larger than a message stays whole here; `deltas` sends it in parts.
    """
    if sum(entry.most for entry in stretch.entries) <= MESSAGE_BYTES:
        return [stretch]
    cuts: list[Stretch] = []
    piece: list[Entry] = []
    room = MESSAGE_BYTES
    for _, rows in itertools.groupby(stretch.entries, lambda entry: entry.row.batch):
        batch = list(rows)
        size = sum(len(_row(entry)) + _COUNTS_BYTES for entry in batch)
        if size > room and piece:
            cuts.append(Stretch(piece, batch[0].row.batch - 1))
            piece, room = [], MESSAGE_BYTES
        piece += batch
        room -= size
    cuts.append(Stretch(piece, stretch.through))
    return cuts


def deltas(
    entries: Iterable[Entry],
    counts: Mapping[int, Counts],
    revision: int,
    *,
    before: int,
    left: Iterable[Entry] = (),
    folded: int = 0,
) -> list[bytes]:
    """A WatchStatesResponse with these rows, and the counts of the kits they touch.

    What does not fit one message comes in several, of which only the last has the new revision: a
    watcher that has not received all of them resumes from the revision before.

    Args:
        entries: The rows that match the filter.
        counts: The counts of kits, by their ids.
        revision: The position of the watch after the messages.
        before: Its position before them.
        left: The rows by which a job or task left the filter.
        folded: Number of rows that later rows replaced.
    """
    parts = [_row(entry) for entry in entries]
    # The same bytes under another field.
    parts += [_LEFT + _row(entry)[len(_STATES) :] for entry in left]
    parts += [_counts(kit_id, kit) for kit_id, kit in counts.items()]
    messages: list[bytes] = []
    if sum(map(len, parts)) > MESSAGE_BYTES:
        *chunks, parts = _chunks(parts)
        messages = [_delta([*chunk, _PARTIAL], before) for chunk in chunks]
    if folded:
        parts = [*parts, _FOLDED, varint(folded)]
    messages.append(_delta(parts, revision))
    return messages


def _delta(parts: Iterable[bytes], revision: int) -> bytes:
    body = b"".join(parts)
    return b"".join((_DELTA, varint(len(body)), body, _REVISION, varint(revision)))


def _chunks(parts: Iterable[bytes]) -> list[list[bytes]]:
    """Parts of a message in order, divided into as many as fit one each."""
    chunks: list[list[bytes]] = [[]]
    room = MESSAGE_BYTES
    for part in parts:
        if len(part) > room and chunks[-1]:
            chunks.append([])
            room = MESSAGE_BYTES
        chunks[-1].append(part)
        room -= len(part)
    return chunks


def named(name: str, event: bytes) -> bytes:
    """A WatchManyResponse with a WatchStatesResponse that is serialised already."""
    text = name.encode()
    return b"".join((_NAME, varint(len(text)), text, _EVENT, varint(len(event)), event))


@functools.lru_cache(maxsize=1024)
def _counts(kit_id: int, counts: Counts) -> bytes:
    message = pb.KitCounts(
        kit_id=kit_id,
        status=translate.status_to_proto(kit_status(counts)),
        job_counts=translate.counts_to_proto(counts),
    ).SerializeToString()
    return b"".join((_COUNTS, varint(len(message)), message))


def _row(entry: Entry) -> bytes:
    wire = entry.wire
    if wire is None:
        state = translate.state_to_proto(entry.row).SerializeToString()
        wire = entry.wire = b"".join((_STATES, varint(len(state)), state))
    return wire
