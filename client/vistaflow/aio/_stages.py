"""Calls of the asynchronous client to the stages: decks, designs, models, studies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import json_format, struct_pb2

from vistaflow._machine.archive import pack_deck
from vistaflow._rows import Rows
from vistaflow._rpc.messages import is_number, listed, message_of
from vistaflow._rpc.structs import struct_of
from vistaflow.aio._calls import Calls
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.errors import FailedPreconditionError, InvalidArgumentError, from_rpc, invalid
from vistaflow.models import Job, Prediction, job_of
from vistaflow.results import Deck, Study, Trial, deck_of, prediction_of, study_of, trial_of

POINTS_AT_ONCE: Final = 10_000
POINTS_BYTES: Final = 3 * 1024 * 1024
"""Largest size of the points in one request for predictions."""


class StageCalls(Calls):
    """The methods of a client that are for the stages."""

    async def decks(self) -> Rows[Deck]:
        """The decks collected and shipped."""
        request = message_of(ingestion_pb2.ListDecksRequest, page_size=1000)
        pages = self._pages("ingestion", "ListDecks", request, "decks")
        return Rows([deck_of(message) async for message in pages])

    async def deck(self, deck: str) -> Deck:
        """One deck.

        Args:
            deck: Its name or id.
        """
        request = message_of(ingestion_pb2.GetDeckRequest, deck=deck)
        return deck_of((await self._call("ingestion", "GetDeck", request)).deck)

    async def deck_archive(self, deck: str) -> bytes:
        """The folder of a deck as a zip file.

        Args:
            deck: Its name or id.
        """
        request = message_of(ingestion_pb2.GetDeckRequest, deck=deck, include_archive=True)
        archive: bytes = (await self._call("ingestion", "GetDeck", request)).archive
        return archive

    async def collect_deck(self, folder: str | Path) -> Job:
        """Starts collecting a deck.

        Args:
            folder: A folder or an archive of this machine.
        """
        if not isinstance(folder, str | os.PathLike):
            raise invalid("folder", f"{folder!r} is not a path")
        source = ingestion_pb2.DeckSource(archive=pack_deck(Path(folder)))
        spec = ingestion_pb2.CollectDecksSpec(sources=[source])
        request = message_of(ingestion_pb2.CollectDecksRequest, spec=spec)
        return job_of((await self._call("ingestion", "CollectDecks", request)).job)

    async def generate_design(self, deck: str, design: doe_pb2.DesignSpec) -> Job:
        """Starts making a design; the job's id is the design's.

        Args:
            deck: The name or id of a deck.
            design: The generator, size, seed and ranges.
        """
        request = message_of(doe_pb2.GenerateDesignRequest, deck=deck, design=design)
        return job_of((await self._call("doe", "GenerateDesign", request)).job)

    async def evaluate_design(self, design_id: str) -> Job:
        """Starts running a design; the job's id is that of the evaluated design.

        Args:
            design_id: The design, with its points.
        """
        request = message_of(doe_pb2.EvaluateDesignRequest, design_id=design_id)
        return job_of((await self._call("doe", "EvaluateDesign", request)).job)

    async def try_point(
        self,
        deck: str | Path = "",
        parameters: Mapping[str, Any] | None = None,
        *,
        archive: bytes = b"",
        design_id: str = "",
        row_id: int = 0,
        ranges: Sequence[common_pb2.ParameterOverride] = (),
        timeout: float = 600.0,
    ) -> doe_pb2.TryPointResponse:
        """Runs one point now: what the simulator was given, what it printed, what came of it.

        Nothing is stored. If the call is canceled, the run ends.

        Args:
            deck: The name or id of a deck, or the path of a folder or an archive of this machine.
            parameters: Values by name, in the units of the deck; others have their default or
                their middle.
            archive: Instead of `deck`: its folder as a zip file.
            design_id: Instead of `deck`: a finished design, a row of which is run.
            row_id: That row.
            ranges: Narrower ranges, whose middle is run.
            timeout: The longest that the run may take, in seconds.
        """
        request = message_of(
            doe_pb2.TryPointRequest,
            deck_archive=archive,
            design_id=design_id,
            row_id=row_id,
            parameters=struct_of(parameters or {}, "parameters"),
            ranges=ranges,
            deck="" if isinstance(deck, Path) else deck,
        )
        if not is_number(timeout) or timeout <= 0:
            raise invalid("timeout", f"{timeout!r} is not a number of seconds above 0")
        if isinstance(deck, Path):
            request.deck_archive = pack_deck(deck)
        response: doe_pb2.TryPointResponse = await self._call(
            "doe", "TryPoint", request, timeout=timeout
        )
        return response

    async def stored_run(
        self, design_id: str, row_id: int = 0, parameters: Mapping[str, Any] | None = None
    ) -> doe_pb2.GetRunResponse:
        """What is stored of a point's run: what it returned and printed, the files it wrote.

        Args:
            design_id: A finished design; the run is of its deck.
            row_id: The row of that design.
            parameters: Values instead of the row's, such as those of a trial of a study.

        Returns:
            The run, whose files are there if the deck has `keep_files`.
        """
        request = message_of(
            doe_pb2.GetRunRequest,
            design_id=design_id,
            row_id=row_id,
            parameters=struct_of(parameters or {}, "parameters"),
        )
        response: doe_pb2.GetRunResponse = await self._call("doe", "GetRun", request)
        return response

    async def design(self, design_id: str) -> doe_pb2.Design:
        """A design: how it was made, its quality, how it was run.

        Args:
            design_id: The design.
        """
        request = message_of(doe_pb2.GetDesignRequest, design_id=design_id)
        response: doe_pb2.GetDesignResponse = await self._call("doe", "GetDesign", request)
        return response.design

    async def design_rows(
        self, design_id: str, *, allow_unfinished: bool = False
    ) -> Rows[dict[str, Any]]:
        """The rows of a design, in order.

        Args:
            design_id: The design.
            allow_unfinished: Whether, of a design whose job is not finished, the rows that were
                run so far are returned, in the order in which their runs ended.

        Returns:
            A mapping for each row: `row_id`, parameters and responses in the units of the deck, by
            name, `failure`, and of a failed run its reason (`message`) and the end of what it
            printed (`log`). If the design took known points, `origin` says from where.
        """
        request = message_of(
            doe_pb2.ReadDesignRequest, design_id=design_id, allow_unfinished=allow_unfinished
        )
        try:
            design = await self.design(design_id)
        except FailedPreconditionError:
            if not allow_unfinished:
                raise
            design = doe_pb2.Design()
        rows: Rows[dict[str, Any]] = Rows()
        async with self._stage("doe") as stage:
            try:
                async for chunk in stage.stub.ReadDesign(request):
                    rows += [_row(row, design) for row in chunk.rows]
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from None
        return rows

    async def model(self, model_id: str) -> ml_pb2.Model:
        """A model: how it was trained and how good it is.

        Args:
            model_id: The model.
        """
        request = message_of(ml_pb2.GetModelRequest, model_id=model_id)
        response: ml_pb2.GetModelResponse = await self._call("ml", "GetModel", request)
        return response.model

    async def predict(
        self,
        model_id: str,
        points: Sequence[Mapping[str, Any]],
        *,
        allow_extrapolation: bool = False,
    ) -> Rows[dict[str, Prediction]]:
        """The responses at raw parameter values, with their uncertainty.

        Args:
            model_id: The model.
            points: Values of the parameters by name, in the units of the deck; any number of
                points, which are sent in several requests.
            allow_extrapolation: Whether points may lie outside the ranges trained over.

        Returns:
            The predictions by response for each point, in order.
        """
        left = [
            struct_of(point, f"points[{place}]")
            for place, point in enumerate(listed(points, "points"))
        ]
        predicted: Rows[dict[str, Prediction]] = Rows()
        most = POINTS_AT_ONCE
        while True:
            some = list(_first(left, most))
            request = message_of(
                ml_pb2.PredictRequest,
                model_id=model_id,
                points=some,
                allow_extrapolation=allow_extrapolation,
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

    async def study(self, study_id: str) -> Study:
        """The result of an optimisation.

        Args:
            study_id: The id of its job.
        """
        request = message_of(optimize_pb2.GetStudyRequest, study_id=study_id)
        return study_of((await self._call("optimize", "GetStudy", request)).study)

    async def trials(
        self, study_id: str, *, from_number: int = 0, allow_unfinished: bool = False
    ) -> Rows[Trial]:
        """The points of a study, in order.

        Args:
            study_id: The id of its job.
            from_number: The first point to return, by its number.
            allow_unfinished: Whether, of a study whose job is not finished, the points tried so
                far are returned.
        """
        request = message_of(
            optimize_pb2.ListTrialsRequest,
            study_id=study_id,
            page_size=10_000,
            from_number=from_number,
            allow_unfinished=allow_unfinished,
        )
        pages = self._pages("optimize", "ListTrials", request, "trials")
        return Rows([trial_of(message) async for message in pages])

    async def picture(
        self,
        kit_id: int,
        picture: str,
        *,
        format: str = "png",
        parameters: Iterable[str] = (),
        response: str = "",
    ) -> bytes:
        """A picture of a kit, drawn from what it has published so far.

        Args:
            kit_id: The kit.
            picture: `effects`, `slices`, `contours`, `parallel`, `importance`, `correlation` or
                `timeline`.
            format: `png`, `svg` or `pdf`.
            parameters: The parameters to show; those that matter most if empty.
            response: The response to show; those of the goals if empty.
        """
        request = message_of(
            optimize_pb2.DrawPictureRequest,
            kit_id=kit_id,
            picture=picture,
            format=format,
            parameters=listed(parameters, "parameters"),
            response=response,
        )
        timeout = 6 * self._timeout
        answer = await self._call("optimize", "DrawPicture", request, timeout=timeout)
        content: bytes = answer.content
        return content


def _first(points: Sequence[struct_pb2.Struct], most: int) -> Iterator[struct_pb2.Struct]:
    """The first points, as many as fit one request, but at least one if there is one."""
    room = POINTS_BYTES
    for number, point in enumerate(points[:most]):
        room -= point.ByteSize() + 8
        if room < 0 and number:
            return
        yield point


def _predictions(answer: ml_pb2.PredictResponse) -> list[dict[str, Prediction]]:
    return [
        {
            response.name: prediction_of(point.responses[response.name], response.unit)
            for response in answer.responses
            if response.name in point.responses
        }
        for point in answer.predictions
    ]


def _row(row: doe_pb2.DesignRow, design: doe_pb2.Design) -> dict[str, Any]:
    """A row with its columns in the design's order, which a Struct does not keep."""
    parameters = json_format.MessageToDict(row.parameters)
    cells: dict[str, Any] = {"row_id": row.row_id}
    # Of a design under way, its columns are not known yet.
    names = [parameter.name for parameter in design.parameters] or sorted(parameters)
    cells |= {name: parameters.get(name) for name in names}
    if not design.parameters:
        cells |= dict(sorted(row.responses.items()))
    if design.evaluated_count:
        cells |= {response.name: row.responses.get(response.name) for response in design.responses}
    cells |= {"failure": row.failure, "message": row.message, "log": row.log}
    return cells | ({"origin": row.origin} if design.origins else {})
