"""Domain values as messages, and points out of messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.message_limits import ENTRY_BYTES, MESSAGE_BYTES
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.decks.space import Space
from vistaflow_services.messages import parameter_message
from vistaflow_services.ml.specs import FAMILY_NUMBERS
from vistaflow_services.surrogates.manifest import ModelManifest, ModelReport, TrainingTable
from vistaflow_services.surrogates.model import Model
from vistaflow_services.surrogates.storage import MANIFEST
from vistaflow_services.surrogates.transforms import Prediction, Transform

MAX_POINTS = 10_000

PREDICTION_BYTES = 36 + ENTRY_BYTES
"""A prediction of one response in an answer, beside the response's name."""

ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
"""The reason of a refusal after which a client asks for less at once."""


def points_of(points: Iterable[struct_pb2.Struct]) -> list[dict[str, Any]]:
    """The points of a request; what is in them is not checked yet.

    Raises:
        InvalidError: There is none, or too many, or a value is neither a number nor text.
    """
    violations = Violations()
    read_points: list[dict[str, Any]] = []
    for index, point in enumerate(points):
        read_points.append({})
        for name, value in point.fields.items():
            kind = value.WhichOneof("kind")
            if kind in ("number_value", "string_value"):
                read_points[-1][name] = getattr(value, kind)
            elif len(violations) < 50:
                violations.add(f"points[{index}].{name}", "give a number or a text")
    if not 1 <= len(read_points) <= MAX_POINTS:
        violations.add("points", f"{len(read_points)} given; 1 to {MAX_POINTS:,} may be")
    violations.check()
    return read_points


def check_answer(responses: Sequence[str], count: int) -> None:
    """Refuses so many points that the predictions do not fit one answer.

    Args:
        responses: Names of the model's responses.
        count: Points asked for.

    Raises:
        InvalidError: They do not fit.
    """
    point_bytes = sum(PREDICTION_BYTES + len(name.encode()) for name in responses)
    most = MESSAGE_BYTES // (point_bytes + ENTRY_BYTES) - 1
    if count > most:
        violations = Violations()
        violations.add(
            "points",
            f"has {count:,} points; for a model of {len(responses)} responses the predictions at "
            f"{most:,} points fit one answer: send fewer points per request",
        )
        try:
            violations.check()
        except InvalidError as error:
            error.reason = ANSWER_TOO_LARGE
            raise


def predict_response(
    model: Model, predictions: Mapping[str, Prediction], count: int
) -> pb.PredictResponse:
    """Predictions of `count` points, and the responses' units."""
    response = pb.PredictResponse(
        responses=[
            common_pb2.Response(name=response.name, unit=response.unit)
            for response in model.responses
        ]
    )
    for row in range(count):
        point = response.predictions.add()
        for name, prediction in predictions.items():
            point.responses[name].mean = prediction.mean[row]
            point.responses[name].standard_deviation = prediction.sd[row]
            point.responses[name].low95 = prediction.low95[row]
            point.responses[name].high95 = prediction.high95[row]
    return response


def model_message(model_id: str, result: Mapping[str, Any], artifacts: ArtifactStore) -> pb.Model:
    """A model out of its job's result.

    Raises:
        LookupError: The result lacks a key.
    """
    table = TrainingTable.read(result)
    manifest, report = ModelManifest.read(result), ModelReport.read(result)
    if table.deck_id is None or table.space is None or table.responses is None:
        raise LookupError("deck_id, space, responses")
    created = timestamp_pb2.Timestamp()
    created.FromJsonString(report.created_at)
    return pb.Model(
        model_id=model_id,
        kit_id=report.kit_id,
        deck_id=table.deck_id,
        parameters=[
            parameter_message(parameter, fixed=report.held_parameters.get(parameter.name))
            for parameter in Space.from_dict(table.space).parameters
        ],
        responses=[
            _response(response, report, table.transforms or {}) for response in table.responses
        ],
        training_row_count=report.training_rows,
        created_at=created,
        files=_files(manifest, artifacts),
    )


def _response(
    response: Mapping[str, str], report: ModelReport, transforms: Mapping[str, str]
) -> pb.ResponseModel:
    name = response["name"]
    return pb.ResponseModel(
        response=common_pb2.Response(name=name, unit=response["unit"]),
        family=FAMILY_NUMBERS[report.families[name]],
        cross_validation_rmse={
            family: scores["rmse"] for family, scores in report.cv[name].items()
        },
        log_scale=transforms[name] == Transform.LOG10,
    )


def _files(manifest: ModelManifest, artifacts: ArtifactStore) -> list[common_pb2.Artifact]:
    """The files that the model's own manifest lists, that manifest first."""
    uri = manifest.model.uri
    path = artifacts.path(uri) / MANIFEST
    if not path.is_file():
        return []
    content = path.read_bytes()
    own = {"sha256": manifest.model.sha256, "bytes": len(content)}
    files = {MANIFEST: own, **json.loads(content)["files"]}
    return [
        common_pb2.Artifact(
            name=name, uri=f"{uri}/{name}", size_bytes=file["bytes"], sha256=file["sha256"]
        )
        for name, file in files.items()
    ]
