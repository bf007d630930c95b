"""Between the protos and the decks."""

from __future__ import annotations

from google.protobuf import struct_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.decks.definition import Response
from vistaflow_services.decks.library import Collected
from vistaflow_services.decks.space import Choice, Parameter


def deck_to_proto(collected: Collected, *, with_text: bool) -> pb.Deck:
    """The wire form of a deck.

    Args:
        collected: The deck.
        with_text: Whether its text files come with their content.
    """
    deck = collected.deck
    message = pb.Deck(
        deck_id=deck.digest,
        name=deck.name,
        version=deck.version,
        simulator=deck.simulator,
        description=deck.description,
        parameters=map(parameter_to_proto, deck.space.parameters),
        responses=map(response_to_proto, deck.responses),
        constraints=map(str, deck.space.constraints),
        files=[
            pb.DeckFile(
                path=path,
                size_bytes=len(content),
                text=_text(content) if with_text else "",
            )
            for path, content in sorted(deck.files.items())
        ],
        shipped=collected.shipped,
        uri=f"artifact://decks/{collected.path.name}" if collected.path else "",
    )
    message.timeout.FromNanoseconds(int(deck.timeout_seconds * 1e9))
    if collected.created_at:
        message.created_at.FromDatetime(collected.created_at)
    return message


def parameter_to_proto(parameter: Parameter) -> common_pb2.Parameter:
    """The wire form of a parameter."""
    message = common_pb2.Parameter(
        name=parameter.name,
        kind=common_pb2.ParameterKind.Value(f"PARAMETER_KIND_{parameter.kind.upper()}"),
        low=parameter.low,
        high=parameter.high,
        choices=map(_value, parameter.choices),
        unit=parameter.unit,
        scale=common_pb2.ParameterScale.Value(f"PARAMETER_SCALE_{parameter.scale.upper()}"),
        description=parameter.description,
    )
    if parameter.default is not None:
        message.default_value.CopyFrom(_value(parameter.default))
    return message


def response_to_proto(response: Response) -> common_pb2.Response:
    """The wire form of a response."""
    return common_pb2.Response(
        name=response.name,
        unit=response.unit,
        description=response.description,
        low=response.low,
        high=response.high,
    )


def _value(choice: Choice) -> struct_pb2.Value:
    if isinstance(choice, str):
        return struct_pb2.Value(string_value=choice)
    return struct_pb2.Value(number_value=choice)


def _text(content: bytes) -> str:
    """The text of a file; nothing for one that is none."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""
