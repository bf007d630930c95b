"""Between the proto and the domain: what changed between two moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.message_limits import MESSAGE_BYTES, fitting
from vistaflow_services.registry import translate
from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.history import Difference, Moment, counts_at

# What an answer holds beside the changes.
_AROUND_BYTES = 512


def diff_to_proto(
    before: Moment | None, after: Moment, first: int, last: int
) -> pb.DiffKitResponse:
    """Two revisions, without what differs; the kit may not have been there at the first."""
    answer = pb.DiffKitResponse(
        to_status=translate.status_to_proto(after.kit.status),
        from_counts=translate.counts_to_proto(counts_at(before)),
        to_counts=translate.counts_to_proto(after.kit.counts),
        from_revision=first,
        to_revision=last,
    )
    if before is not None:
        answer.from_status = translate.status_to_proto(before.kit.status)
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

    def known(row: StateRow | None) -> bool:
        return row is None or row.revision in rows

    def change(difference: Difference) -> pb.StateChange:
        message = pb.StateChange()
        if difference.before is not None:
            row = rows[difference.before.revision]
            message.before.CopyFrom(translate.state_to_proto(row))
        if difference.after is not None:
            row = rows[difference.after.revision]
            message.after.CopyFrom(translate.state_to_proto(row))
        return message

    told = 0
    while (
        told < len(differences)
        and known(differences[told].before)
        and known(differences[told].after)
    ):
        told += 1
    return fitting(differences[:told], change, room)


def room_for_changes() -> int:
    """Bytes there are for the changes of one answer."""
    return MESSAGE_BYTES - _AROUND_BYTES
