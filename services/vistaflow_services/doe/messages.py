"""From the domain to the messages that describe designs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.decks.deck import Deck
from vistaflow_services.designs.catalog import CATALOG
from vistaflow_services.designs.manifest import DesignManifest, DesignOrigin, DesignRuns
from vistaflow_services.doe.looking import Look
from vistaflow_services.doe.specs import GENERATORS
from vistaflow_services.messages import artifact_message, parameter_message, response_message


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


def design_message(design_id: str, result: Mapping[str, Any]) -> pb.Design:
    """The design that a DOE job published."""
    manifest = DesignManifest.read(result)
    origin, runs = DesignOrigin.read(result), DesignRuns.read(result)
    region = manifest.region
    return pb.Design(
        design_id=design_id,
        deck_id=manifest.deck_id,
        parameters=[
            parameter_message(parameter, fixed=region.fixed.get(parameter.name))
            for parameter in region.space.parameters
        ],
        responses=[
            common_pb2.Response(name=name, unit=unit) for name, unit in manifest.units.items()
        ],
        constraints=[str(constraint) for constraint in region.space.constraints],
        generator=origin.generator,
        generator_version=origin.version,
        seed=int(origin.seed),
        size=origin.size,
        evaluated_count=manifest.evaluated_count,
        failed_count=runs.failed_count,
        cached_count=runs.cached_count,
        quality={
            name: float(value)
            for name, value in origin.quality.items()
            if isinstance(value, int | float) and math.isfinite(value)
        },
        data=artifact_message("design.parquet", manifest.design),
        origins=[pb.PointOrigin(**origin) for origin in runs.origins],
        reasons=[pb.FailureReason(**reason) for reason in runs.reasons],
        plots=[artifact_message(plot.name or "", plot) for plot in runs.plots],
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


def try_message(deck: Deck, look: Look) -> pb.TryPointResponse:
    """One run with all that came of it."""
    outcome = look.outcome
    message = pb.TryPointResponse(
        deck=deck.name,
        simulator=deck.simulator,
        parameter_infos=map(parameter_message, deck.space.parameters),
        response_infos=map(response_message, deck.responses),
        responses=outcome.responses,
        failure=outcome.failure or "",
        message=outcome.message if outcome.failure else "",
        seconds=outcome.seconds,
        log=look.log,
        files=[
            pb.RunFile(
                path=file.path, content=file.content, input=file.input, truncated=file.truncated
            )
            for file in look.files
        ],
    )
    message.parameters.update(outcome.point)
    return message


def _row(row: Mapping[str, Any]) -> pb.DesignRow:
    message = pb.DesignRow(
        row_id=row["row_id"],
        failure=row["failure"] or "",
        # Releases before these columns had neither.
        message=row.get("message") or "",
        log=row.get("log") or "",
        origin=row.get("origin") or "",
    )
    message.parameters.update(
        {name[2:]: value for name, value in row.items() if name.startswith("x.")}
    )
    if row.get("seconds"):
        message.run_duration.FromTimedelta(timedelta(seconds=row["seconds"]))
    for name, value in row.items():
        if name.startswith("y.") and value is not None:
            message.responses[name[2:]] = value
    return message
