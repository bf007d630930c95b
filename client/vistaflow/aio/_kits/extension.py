"""Calls of the asynchronous client that go on from what is known: kits, points, lineage."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from vistaflow._machine.archive import pack_deck
from vistaflow._rpc.messages import message_of, page_size
from vistaflow.aio._calls import Calls
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import invalid
from vistaflow.models import Job, Kit, job_of, kit_of


class ExtensionCalls(Calls):
    """The methods of a client that go on from what is known."""

    async def extend_kit(
        self,
        kit_id: int,
        *,
        budget: int = 0,
        goals: str = "",
        narrow: Mapping[str, Any] | None = None,
        name: str = "",
        labels: Mapping[str, str] | None = None,
        actor: str = "",
        request_id: str = "",
    ) -> Kit:
        """Extends a kit by a new one, which goes on from all that the kit knows; returns at once.

        No point is run again. Of a kit that stopped after a stage, the rest is run.

        Args:
            kit_id: The kit to extend; it stays as it is.
            budget: Further runs of the simulator; as many as the kit's own if 0.
            goals: What is wanted now; the kit's own if empty.
            narrow: Other ranges by parameter: `[low, high]`, one value, or `{"choices": […]}`.
            name: The name of the new kit; the kit's own if empty.
            labels: Labels beside those of the kit.
            actor: The caller's name, for the log.
            request_id: A UUID that makes the call safe to repeat from elsewhere.

        Returns:
            The new kit. Its `extends` in `spec` is the kit.
        """
        request = _extension(
            narrow,
            kit_id=kit_id,
            budget=budget,
            goals=goals,
            name=name,
            labels=labels or {},
            actor=actor,
            request_id=request_id,
        )
        response = await self._call("pipeline", "ExtendKit", request, timeout=3 * self._timeout)
        return kit_of(response.kit)

    async def estimate_extension(
        self,
        kit_id: int,
        *,
        budget: int = 0,
        goals: str = "",
        narrow: Mapping[str, Any] | None = None,
    ) -> pipeline_pb2.RunEstimate:
        """How long the runs of a kit that extends another may take; starts nothing.

        Args:
            kit_id: The kit to extend.
            budget: Further runs of the simulator; as many as the kit's own if 0.
            goals: What is wanted now; the kit's own if empty.
            narrow: Other ranges by parameter, as of `extend_kit`.
        """
        request = _extension(narrow, kit_id=kit_id, budget=budget, goals=goals, validate_only=True)
        response = await self._call("pipeline", "ExtendKit", request, timeout=3 * self._timeout)
        estimate: pipeline_pb2.RunEstimate = response.estimate
        return estimate

    async def import_points(
        self,
        dataset: str,
        file: str | os.PathLike[str] | bytes,
        deck: str | Path,
        *,
        request_id: str = "",
    ) -> Job:
        """Imports measurements or earlier runs as points of a deck; returns at once.

        Every row is checked against the deck first. A kit takes the points by
        `reuse: dataset NAME`.

        Args:
            dataset: The dataset's name; it is made if it is not there, else gets a version.
            file: The path of a CSV file with a column for each parameter and response, or its
                content.
            deck: The name or id of a deck, or the path of a folder or an archive of this machine.
            request_id: A UUID that makes the call safe to repeat from elsewhere.

        Raises:
            InvalidArgumentError: With every mistake, by line and column.
        """
        if not isinstance(file, str | os.PathLike | bytes):
            raise invalid("file", f"{type(file).__name__} is neither a path nor bytes")
        request = message_of(
            pipeline_pb2.ImportPointsRequest,
            request_id=request_id,
            deck="" if isinstance(deck, Path) else deck,
            dataset=dataset,
            file_name="" if isinstance(file, bytes) else Path(file).name,
        )
        try:
            request.csv = (
                file if isinstance(file, bytes) else await asyncio.to_thread(Path(file).read_bytes)
            )
        except (OSError, ValueError) as error:
            raise invalid("file", f"{file!s} cannot be read: {error}") from None
        if isinstance(deck, Path):
            request.deck_archive = pack_deck(deck)
        response = await self._call("pipeline", "ImportPoints", request, timeout=3 * self._timeout)
        return job_of(response.job)

    async def lineage(
        self,
        *,
        kit_id: int = 0,
        job_id: str = "",
        dataset: str = "",
        file: str = "",
        direction: str = "",
        project: str = "",
        limit: int = 0,
    ) -> registry_pb2.GetLineageResponse:
        """Where something comes from, or what was made of it.

        Args:
            kit_id: Of all that a kit made.
            job_id: Of what a job made.
            dataset: Of a version of a dataset, such as `bench@3`.
            file: Of a file, as imports and conversions name it, or the name of an uploaded file.
            direction: `back` to what it was made from, or `forward` to what was made of it; if
                empty back from kits and jobs, forward from datasets and files.
            project: Only what is in this project.
            limit: Most nodes.
        """
        words = {
            "": registry_pb2.LINEAGE_DIRECTION_UNSPECIFIED,
            "back": registry_pb2.LINEAGE_DIRECTION_BACK,
            "forward": registry_pb2.LINEAGE_DIRECTION_FORWARD,
        }
        if direction not in words:
            raise invalid("direction", f"`{direction}` is neither `back` nor `forward`")
        request = message_of(
            registry_pb2.GetLineageRequest,
            direction=words[direction],
            project=project,
            max_nodes=page_size(limit, 1000),
        )
        starts = {"kit_id": kit_id, "job_id": job_id, "dataset": dataset, "file": file}
        named: dict[str, Any] = {name: value for name, value in starts.items() if value}
        if len(named) != 1:
            raise invalid("kit_id", "give one of kit_id, job_id, dataset and file")
        request.MergeFrom(message_of(registry_pb2.GetLineageRequest, **named))
        response: registry_pb2.GetLineageResponse = await self._call(
            "registry", "GetLineage", request
        )
        return response


def _extension(narrow: Mapping[str, Any] | None, **fields: Any) -> pipeline_pb2.ExtendKitRequest:
    if narrow is not None and not isinstance(narrow, Mapping):
        raise invalid("narrow", f"{type(narrow).__name__} is no mapping of parameters")
    request = message_of(pipeline_pb2.ExtendKitRequest, **fields)
    request.parameters.extend(_override(*item) for item in (narrow or {}).items())
    return request


def _override(name: str, value: Any) -> common_pb2.ParameterOverride:
    """What is said of a parameter, as a kit file has it."""
    fields: dict[str, Any]
    if isinstance(value, Mapping):
        fields = dict(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise invalid(f"narrow.{name}", "give [low, high], one value, or {'choices': [a, b]}")
        fields = {"low": value[0], "high": value[1]}
    else:
        fields = {"fixed": value}
    try:
        return json_format.ParseDict({"name": name, **fields}, common_pb2.ParameterOverride())
    except json_format.ParseError as error:
        raise invalid(f"narrow.{name}", str(error)) from None
