"""From the domain to the messages that tell of designs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.decks.space import Kind, Parameter, Scale
from vistaflow_services.doe.catalog import CATALOG
from vistaflow_services.doe.references import region_of
from vistaflow_services.doe.specs import GENERATORS

KINDS = {
    Kind.REAL: common_pb2.PARAMETER_KIND_REAL,
    Kind.INTEGER: common_pb2.PARAMETER_KIND_INTEGER,
    Kind.CATEGORICAL: common_pb2.PARAMETER_KIND_CATEGORICAL,
    Kind.ORDINAL: common_pb2.PARAMETER_KIND_ORDINAL,
}

SCALES = {
    Scale.LINEAR: common_pb2.PARAMETER_SCALE_LINEAR,
    Scale.LOG: common_pb2.PARAMETER_SCALE_LOG,
}


def generator_infos() -> list[pb.GeneratorInfo]:
    """All generators, in the order of their numbers."""
    return [
        pb.GeneratorInfo(
            generator=number,
            name=str(generator),
            description=CATALOG[generator].description,
            sized=CATALOG[generator].sized,
            max_size=CATALOG[generator].max_size,
            seeded=CATALOG[generator].seeded,
            source=CATALOG[generator].source,
        )
        for number, generator in sorted(GENERATORS.items())
    ]


def design_message(design_id: str, manifest: Mapping[str, Any]) -> pb.Design:
    """The design that a DOE job's manifest describes."""
    region = region_of(manifest)
    quality = manifest["quality"]
    return pb.Design(
        design_id=design_id,
        deck_id=manifest["deck_id"],
        parameters=[
            parameter_message(each, fixed=region.fixed.get(each.name))
            for each in region.space.parameters
        ],
        responses=[
            common_pb2.Response(name=each["name"], unit=each["unit"])
            for each in manifest["responses"]
        ],
        constraints=[str(each) for each in region.space.constraints],
        generator=manifest["generator"],
        generator_version=manifest["version"],
        seed=int(manifest["seed"]),
        size=manifest["size"],
        evaluated_count=manifest["evaluated_count"],
        failed_count=manifest["failed_count"],
        cached_count=manifest["cached_count"],
        quality={
            name: float(value)
            for name, value in quality.items()
            if isinstance(value, int | float) and math.isfinite(value)
        },
        data=artifact_message("design.parquet", manifest["design"]),
        plots=[artifact_message(each["name"], each) for each in manifest["plots"]],
    )


def parameter_message(parameter: Parameter, *, fixed: object = None) -> common_pb2.Parameter:
    """A parameter with its range; one that is held has its value as both ends, or only choice."""
    message = common_pb2.Parameter(
        name=parameter.name,
        kind=KINDS[parameter.kind],
        unit=parameter.unit,
        description=parameter.description,
    )
    if parameter.choices:
        choices = parameter.choices if fixed is None else (fixed,)
        message.choices.extend(_value(each) for each in choices)
    else:
        message.scale = SCALES[parameter.scale]
        assert parameter.low is not None
        assert parameter.high is not None
        held = isinstance(fixed, int | float)
        message.low = float(fixed) if held else parameter.low  # type: ignore[arg-type]
        message.high = float(fixed) if held else parameter.high  # type: ignore[arg-type]
    if parameter.default is not None:
        message.default_value.CopyFrom(_value(parameter.default))
    return message


def artifact_message(name: str, described: Mapping[str, Any]) -> common_pb2.Artifact:
    """A file of the artifact store."""
    return common_pb2.Artifact(
        name=name,
        uri=described["uri"],
        size_bytes=described["bytes"],
        sha256=described["sha256"],
    )


def row_messages(
    rows: Iterable[Mapping[str, Any]], *, chunk_bytes: int
) -> Iterator[pb.ReadDesignResponse]:
    """Rows of a table in chunks of about `chunk_bytes`."""
    chunk, size = pb.ReadDesignResponse(), 0
    for row in rows:
        message = _row(row)
        chunk.rows.append(message)
        size += message.ByteSize()
        if size >= chunk_bytes:
            yield chunk
            chunk, size = pb.ReadDesignResponse(), 0
    if chunk.rows:
        yield chunk


def _row(row: Mapping[str, Any]) -> pb.DesignRow:
    message = pb.DesignRow(row_id=row["row_id"], failure=row["failure"] or "")
    message.parameters.update(
        {name[2:]: value for name, value in row.items() if name.startswith("x.")}
    )
    for name, value in row.items():
        if name.startswith("y.") and value is not None:
            message.responses[name[2:]] = value
    return message


def _value(value: object) -> struct_pb2.Value:
    message = struct_pb2.Value()
    json_format.ParseDict(value, message)  # type: ignore[arg-type]
    return message
