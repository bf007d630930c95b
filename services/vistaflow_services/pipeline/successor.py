"""Continuing a kit with another deck: restores its spec from the registry's record.

A FINISHED job can be replaced in its kit, a FAILED or CANCELED one cannot: it would count as failed
in the kit's status although its successor finished. So a kit whose deck was never collected, in
which nothing else can have run in that deck, is planned again as a new kit.
"""

from __future__ import annotations

from google.protobuf import any_pb2, json_format

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import ConflictError
from vistaflow_services.decks.deck import Deck
from vistaflow_services.pipeline.translate import COLLECT

_BESIDE_SPEC = ("deck", "units")
"""Keys in the record of a spec that are not fields of the spec."""


def has_no_deck(kit: registry_pb2.Kit) -> bool:
    """Whether the kit's last attempt to collect a deck FAILED or was CANCELED."""
    collecting = [job for job in kit.jobs if job.name.partition("@")[0] == COLLECT]
    last = max(collecting, key=lambda job: int(job.name.partition("@")[2] or 1), default=None)
    ended = (common_pb2.STATUS_FAILED, common_pb2.STATUS_CANCELED)
    return last is not None and last.status in ended


def spec_in(
    kit: registry_pb2.Kit, deck: ingestion_pb2.DeckSource, *, restarts: bool = False
) -> pb.KitSpec:
    """The spec that a kit was started with, in another deck.

    Args:
        kit: The kit with its jobs' specs.
        deck: The deck that takes the place of its own.
        restarts: Whether a new kit is planned from the spec, so that no job keeps its own spec.

    Raises:
        ConflictError: It was not started from a spec.
    """
    record = json_format.MessageToDict(kit.spec)
    fields = {name: value for name, value in record.items() if name not in _BESIDE_SPEC}
    spec = pb.KitSpec()
    try:
        json_format.ParseDict(fields, spec, ignore_unknown_fields=True)
    except json_format.ParseError:
        fields = {}
    if "jobs" in fields or all(job.name != COLLECT for job in kit.jobs):
        fields = {}
    if not fields:
        raise ConflictError(
            f"kit {kit.kit_id} was not started from a kit file, so its deck cannot be "
            "replaced: start a new kit with the new deck"
        )
    spec.deck.CopyFrom(deck)
    if not spec.ml.responses and not restarts:
        # Jobs that are still to come keep their specs: the new deck has to have what they model.
        spec.ml.responses.extend(_modelled(kit))
    return spec


def replacement(deck: Deck) -> registry_pb2.Replacement:
    """What the kit collects instead.

    The same deck gives the same bytes, so that it can be asked for again under one request id.
    """
    source = ingestion_pb2.DeckSource(archive=deck.to_archive())
    packed = any_pb2.Any()
    packed.Pack(ingestion_pb2.CollectDecksSpec(sources=[source]))
    return registry_pb2.Replacement(name=COLLECT, spec=packed)


def _modelled(kit: registry_pb2.Kit) -> list[str]:
    """The responses that the kit's models are of."""
    spec = ml_pb2.PreprocessSpec()
    for job in kit.jobs:
        if job.job_type == common_pb2.JOB_TYPE_ML_PREPROCESS and job.spec.Unpack(spec):
            return list(spec.responses)
    return []
