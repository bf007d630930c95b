"""What the asynchronous client asks of the stages: decks, designs, models, studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import json_format, struct_pb2

from vistaflow.aio.calls import Calls
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.archive import pack_deck
from vistaflow.errors import InvalidArgumentError, from_rpc
from vistaflow.models import Job, Prediction, job_of
from vistaflow.structs import struct_of

POINTS_AT_ONCE: Final = 10_000
POINTS_BYTES: Final = 3 * 1024 * 1024
"""Largest size of the points in one request for predictions."""


class StageCalls(Calls):
    """The methods of a client that are for the stages."""

    async def decks(self) -> list[ingestion_pb2.Deck]:
        """The decks collected and shipped."""
        request = ingestion_pb2.ListDecksRequest(page_size=1000)
        return [each async for each in self._pages("ingestion", "ListDecks", request, "decks")]

    async def deck(self, deck: str) -> ingestion_pb2.Deck:
        """One deck, by its name or id."""
        request = ingestion_pb2.GetDeckRequest(deck=deck)
        found: ingestion_pb2.Deck = (await self._call("ingestion", "GetDeck", request)).deck
        return found

    async def collect_deck(self, folder: str | Path) -> Job:
        """Starts collecting a deck from a folder or archive of this machine."""
        source = ingestion_pb2.DeckSource(archive=pack_deck(Path(folder)))
        spec = ingestion_pb2.CollectDecksSpec(sources=[source])
        request = ingestion_pb2.CollectDecksRequest(spec=spec)
        return job_of((await self._call("ingestion", "CollectDecks", request)).job)

    async def generate_design(self, deck: str, design: doe_pb2.DesignSpec) -> Job:
        """Starts making a design; the job's id is the design's."""
        request = doe_pb2.GenerateDesignRequest(deck=deck, design=design)
        return job_of((await self._call("doe", "GenerateDesign", request)).job)

    async def evaluate_design(self, design_id: str) -> Job:
        """Starts running a design; the job's id is that of the evaluated design."""
        request = doe_pb2.EvaluateDesignRequest(design_id=design_id)
        return job_of((await self._call("doe", "EvaluateDesign", request)).job)

    async def design(self, design_id: str) -> doe_pb2.Design:
        """What a design is: how it was made, its quality, how it was run."""
        request = doe_pb2.GetDesignRequest(design_id=design_id)
        found: doe_pb2.Design = (await self._call("doe", "GetDesign", request)).design
        return found

    async def design_rows(self, design_id: str) -> list[dict[str, Any]]:
        """The rows of a design: `row_id`, parameters, responses and `failure` by name, in order."""
        design = await self.design(design_id)
        request = doe_pb2.ReadDesignRequest(design_id=design_id)
        rows: list[dict[str, Any]] = []
        async with self._stage("doe") as stage:
            try:
                async for chunk in stage.stub.ReadDesign(request):
                    rows += [_row(each, design) for each in chunk.rows]
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from None
        return rows

    async def model(self, model_id: str) -> ml_pb2.Model:
        """What a model is: how it was made and how good it is."""
        request = ml_pb2.GetModelRequest(model_id=model_id)
        found: ml_pb2.Model = (await self._call("ml", "GetModel", request)).model
        return found

    async def predict(
        self,
        model_id: str,
        points: Sequence[Mapping[str, Any]],
        *,
        allow_extrapolation: bool = False,
    ) -> list[dict[str, Prediction]]:
        """The responses at raw parameter values, with their uncertainty, by name."""
        left = [struct_of(point, f"points[{place}]") for place, point in enumerate(points)]
        predicted: list[dict[str, Prediction]] = []
        most = POINTS_AT_ONCE
        while True:
            some = list(_first(left, most))
            request = ml_pb2.PredictRequest(
                model_id=model_id, points=some, allow_extrapolation=allow_extrapolation
            )
            try:
                response = await self._call("ml", "Predict", request)
            except InvalidArgumentError as error:
                if error.reason != "ANSWER_TOO_LARGE" or len(some) == 1:
                    raise
                most = len(some) // 2
                continue
            predicted += _predictions(response)
            left = left[len(some) :]
            if not left:
                return predicted

    async def study(self, study_id: str) -> optimize_pb2.Study:
        """The result of an optimisation."""
        request = optimize_pb2.GetStudyRequest(study_id=study_id)
        found: optimize_pb2.Study = (await self._call("optimize", "GetStudy", request)).study
        return found

    async def trials(self, study_id: str) -> list[optimize_pb2.Trial]:
        """What a study tried, in order."""
        request = optimize_pb2.ListTrialsRequest(study_id=study_id, page_size=10_000)
        return [each async for each in self._pages("optimize", "ListTrials", request, "trials")]


def _first(points: Sequence[struct_pb2.Struct], most: int) -> Iterator[struct_pb2.Struct]:
    """The first points, as many as fit one request, but at least one if there is one."""
    room = POINTS_BYTES
    for number, point in enumerate(points[:most]):
        room -= point.ByteSize() + 8
        if room < 0 and number:
            return
        yield point


def _predictions(response: ml_pb2.PredictResponse) -> list[dict[str, Prediction]]:
    units = {each.name: each.unit for each in response.responses}
    return [
        {
            name: Prediction(
                mean=point.responses[name].mean,
                standard_deviation=point.responses[name].standard_deviation,
                low95=point.responses[name].low95,
                high95=point.responses[name].high95,
                unit=unit,
            )
            for name, unit in units.items()
            if name in point.responses
        }
        for point in response.predictions
    ]


def _row(row: doe_pb2.DesignRow, design: doe_pb2.Design) -> dict[str, Any]:
    """A row with its columns in the design's order, which a Struct does not keep."""
    parameters = json_format.MessageToDict(row.parameters)
    told: dict[str, Any] = {"row_id": row.row_id}
    told |= {each.name: parameters.get(each.name) for each in design.parameters}
    if design.evaluated_count:
        told |= {each.name: row.responses.get(each.name) for each in design.responses}
    return told | {"failure": row.failure}
