"""Domain values as messages, and points out of messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow_services.core.artifacts import ArtifactStore
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.message_limits import ENTRY_BYTES, MESSAGE_BYTES
from vistaflow_services.decks.space import Space
from vistaflow_services.messages import parameter_message
from vistaflow_services.ml.specs import FAMILY_NUMBERS
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
    found = Violations()
    told: list[dict[str, Any]] = []
    for at, point in enumerate(points):
        told.append({})
        for name, value in point.fields.items():
            kind = value.WhichOneof("kind")
            if kind in ("number_value", "string_value"):
                told[-1][name] = getattr(value, kind)
            elif len(found) < 50:
                found.add(f"points[{at}].{name}", "give a number or a text")
    if not 1 <= len(told) <= MAX_POINTS:
        found.add("points", f"{len(told)} given; 1 to {MAX_POINTS:,} may be")
    found.check()
    return told


def check_answer(responses: Sequence[str], count: int) -> None:
    """Refuses so many points that the predictions do not fit one answer.

    Args:
        responses: Names of the model's responses.
        count: Points asked for.

    Raises:
        InvalidError: They do not fit.
    """
    each = sum(PREDICTION_BYTES + len(name.encode()) for name in responses)
    most = MESSAGE_BYTES // (each + ENTRY_BYTES) - 1
    if count > most:
        found = Violations()
        found.add(
            "points",
            f"has {count:,} points; for a model of {len(responses)} responses the predictions at "
            f"{most:,} points fit one answer: send fewer points per request",
        )
        try:
            found.check()
        except InvalidError as error:
            error.reason = ANSWER_TOO_LARGE
            raise


def predict_response(
    model: Model, found: Mapping[str, Prediction], count: int
) -> pb.PredictResponse:
    """Predictions of `count` points, and the responses' units."""
    response = pb.PredictResponse(
        responses=[common_pb2.Response(name=each.name, unit=each.unit) for each in model.responses]
    )
    for at in range(count):
        point = response.predictions.add()
        for name, each in found.items():
            point.responses[name].mean = each.mean[at]
            point.responses[name].standard_deviation = each.sd[at]
            point.responses[name].low95 = each.low95[at]
            point.responses[name].high95 = each.high95[at]
    return response


def model_message(model_id: str, manifest: Mapping[str, Any], artifacts: ArtifactStore) -> pb.Model:
    """A model out of its job's result."""
    created = timestamp_pb2.Timestamp()
    created.FromJsonString(manifest["created_at"])
    return pb.Model(
        model_id=model_id,
        kit_id=manifest["kit_id"],
        deck_id=manifest["deck_id"],
        parameters=[
            parameter_message(each, fixed=manifest["held_parameters"].get(each.name))
            for each in Space.from_dict(manifest["space"]).parameters
        ],
        responses=[_response(each, manifest) for each in manifest["responses"]],
        training_row_count=manifest["training_rows"],
        created_at=created,
        files=_files(manifest, artifacts),
    )


def _response(told: Mapping[str, str], manifest: Mapping[str, Any]) -> pb.ResponseModel:
    name = told["name"]
    return pb.ResponseModel(
        response=common_pb2.Response(name=name, unit=told["unit"]),
        family=FAMILY_NUMBERS[manifest["families"][name]],
        cross_validation_rmse={
            family: each["rmse"] for family, each in manifest["cv"][name].items()
        },
        log_scale=manifest["transforms"][name] == Transform.LOG10,
    )


def _files(manifest: Mapping[str, Any], artifacts: ArtifactStore) -> list[common_pb2.Artifact]:
    """The files that the model's own manifest lists, that manifest first."""
    uri, sha256 = manifest["model"]["uri"], manifest["model"]["sha256"]
    path = artifacts.path(uri) / MANIFEST
    if not path.is_file():
        return []
    content = path.read_bytes()
    files = {MANIFEST: {"sha256": sha256, "bytes": len(content)}, **json.loads(content)["files"]}
    return [
        common_pb2.Artifact(
            name=name, uri=f"{uri}/{name}", size_bytes=each["bytes"], sha256=each["sha256"]
        )
        for name, each in files.items()
    ]
