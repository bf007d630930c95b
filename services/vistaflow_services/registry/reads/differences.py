"""Between the proto and the domain: what changed between two moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.message_limits import MESSAGE_BYTES, fitting
from vistaflow_services.registry.domain import NO_COUNTS, Kit, StateRow
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.reads.history import Difference

# What an answer holds beside the changes.
_AROUND_BYTES = 512


def diff_to_proto(before: Kit | None, after: Kit, first: int, last: int) -> pb.DiffKitResponse:
    """Two revisions, without what differs; the kit may not have been there at the first."""
    answer = pb.DiffKitResponse(
        to_status=translate.status_to_proto(after.status),
        from_counts=translate.counts_to_proto(before.counts if before is not None else NO_COUNTS),
        to_counts=translate.counts_to_proto(after.counts),
        from_revision=first,
        to_revision=last,
    )
    if before is not None:
        answer.from_status = translate.status_to_proto(before.status)
    return answer


def changes_to_proto(
    differences: Sequence[Difference], rows: Mapping[int, StateRow], room: int
) -> list[pb.StateChange]:
    """The first differences, as many as the rows that were read tell and as fit.

    Args:
        differences: What differs.
        rows: Rows of the log by their revisions.
        room: Bytes there are.
    """

    def is_read(revision: int) -> bool:
        return not revision or revision in rows

    def change(difference: Difference) -> pb.StateChange:
        message = pb.StateChange()
        if difference.before:
            row = rows[difference.before]
            message.before.CopyFrom(translate.state_to_proto(row))
        if difference.after:
            row = rows[difference.after]
            message.after.CopyFrom(translate.state_to_proto(row))
        return message

    count = 0
    while (
        count < len(differences)
        and is_read(differences[count].before)
        and is_read(differences[count].after)
    ):
        count += 1
    return fitting(differences[:count], change, room)


def room_for_changes() -> int:
    """Bytes there are for the changes of one answer."""
    return MESSAGE_BYTES - _AROUND_BYTES
