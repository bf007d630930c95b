"""Messages of what several services have: parameters, responses, files."""

from __future__ import annotations

from typing import Final

from google.protobuf import struct_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow_services.core.results import PublishedFile
from vistaflow_services.decks.definition import Response
from vistaflow_services.decks.space import Choice, Kind, Parameter, Scale

_KINDS: Final = {
    Kind.REAL: common_pb2.PARAMETER_KIND_REAL,
    Kind.INTEGER: common_pb2.PARAMETER_KIND_INTEGER,
    Kind.CATEGORICAL: common_pb2.PARAMETER_KIND_CATEGORICAL,
    Kind.ORDINAL: common_pb2.PARAMETER_KIND_ORDINAL,
}
_SCALES: Final = {
    Scale.LINEAR: common_pb2.PARAMETER_SCALE_LINEAR,
    Scale.LOG: common_pb2.PARAMETER_SCALE_LOG,
}


def parameter_message(parameter: Parameter, *, fixed: Choice | None = None) -> common_pb2.Parameter:
    """A parameter with its range; one that is held has its value as both ends, or only choice."""
    message = common_pb2.Parameter(
        name=parameter.name,
        kind=_KINDS[parameter.kind],
        unit=parameter.unit,
        description=parameter.description,
        title=parameter.title,
    )
    if parameter.choices:
        choices = parameter.choices if fixed is None else (fixed,)
        message.choices.extend(map(value_message, choices))
    else:
        message.scale = _SCALES[parameter.scale]
        ends = (parameter.low, parameter.high) if fixed is None else (fixed, fixed)
        message.low, message.high = (float(end or 0) for end in ends)
    if parameter.default is not None:
        message.default_value.CopyFrom(value_message(parameter.default))
    return message


def response_message(response: Response) -> common_pb2.Response:
    """A response with its unit and what is physical."""
    return common_pb2.Response(
        name=response.name,
        unit=response.unit,
        description=response.description,
        low=response.low,
        high=response.high,
        title=response.title,
    )


def artifact_message(name: str, file: PublishedFile) -> common_pb2.Artifact:
    """A file of the artifact store that a result describes."""
    return common_pb2.Artifact(
        name=name, uri=file.uri, size_bytes=file.bytes or 0, sha256=file.sha256
    )


def value_message(value: Choice) -> struct_pb2.Value:
    """A parameter's value."""
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(number_value=value)
