"""From the domain to the messages that tell of designs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.doe.catalog import CATALOG
from vistaflow_services.doe.references import region_of
from vistaflow_services.doe.specs import GENERATORS
from vistaflow_services.messages import artifact_message, parameter_message


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
