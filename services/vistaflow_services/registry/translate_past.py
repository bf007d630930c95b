"""Between the proto and the domain: what changed between two moments."""

from __future__ import annotations

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry import translate
from vistaflow_services.registry.history import Moment, counts_at, differences


def diff_to_proto(
    before: Moment | None, after: Moment, first: int, last: int
) -> pb.DiffKitResponse:
    """What differs between two revisions; the kit may not have been there at the first."""
    answer = pb.DiffKitResponse(
        to_status=translate.status_to_proto(after.kit.status),
        from_counts=translate.counts_to_proto(counts_at(before)),
        to_counts=translate.counts_to_proto(after.kit.counts),
        from_revision=first,
        to_revision=last,
    )
    if before is not None:
        answer.from_status = translate.status_to_proto(before.kit.status)
    for each in differences(before, after):
        change = answer.changes.add()
        if each.before is not None:
            change.before.CopyFrom(translate.state_to_proto(each.before))
        if each.after is not None:
            change.after.CopyFrom(translate.state_to_proto(each.after))
    return answer
