"""Attempts of jobs over one artifact store: designs of real decks, studies over them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow_services.core.results import JobResult
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.doe import jobs as doe
from vistaflow_services.ml import jobs as ml
from vistaflow_services.optimize import jobs as optimize

WELDED_BEAM = "minimize cost; tau <= 13600; sigma <= 30000; deflection <= 0.25; pc >= 6000"


class Bench:
    """Runs jobs as the worker does, in this process."""

    def __init__(self, root: Path) -> None:
        self.artifacts = ArtifactStore(root)
        self.reports: list[dict[str, Any]] = []
        self.inputs: dict[str, JobResult] = {}

    def keep(self, deck: Deck) -> str:
        return DeckLibrary(self.artifacts.root / "decks").put(deck).deck.digest

    def run(
        self, jobs: Mapping[str, Any], job_type: str, spec: Any, name: str = "", number: int = 1
    ) -> JobResult:
        job_id = str(uuid.uuid4())
        attempt = Attempt(
            kit_id=3,
            job_id=job_id,
            number=number,
            job_type=job_type,
            spec=spec,
            inputs=dict(self.inputs),
            folder=self.artifacts.open_prefix(job_id, number),
            artifacts=self.artifacts,
            workers=2,
            report=self.reports.append,
        )
        result = JobResult(
            job_id=job_id, job_type=job_type, attempt=number, result=jobs[job_type](attempt)
        )
        if name:
            self.inputs[name] = result
        return result

    def design(self, deck: str, size: int, seed: int = 0, **design: Any) -> JobResult:
        spec = {"deck": deck, "design": {"size": size, "seed": seed, **design}, "evaluation": {}}
        parsed = json_format.ParseDict(spec, doe_pb2.DoeSpec())
        return self.run(doe.JOBS, "DOE", parsed, "doe")

    def study(self, goals: str, **spec: Any) -> dict[str, Any]:
        parsed = optimize_pb2.OptimizeDesignSpec(**{"design": "doe", "goals": goals, **spec})
        return dict(self.run(optimize.JOBS, "OPTIMIZE", parsed, "optimize").result)

    def tuned(self, **spec: Any) -> dict[str, Any]:
        parsed = optimize_pb2.TuneModelSpec(**{"scaler": "scale", **spec})
        return dict(self.run(optimize.JOBS, "OPTIMIZE", parsed, "tune").result)

    def scaled(self) -> None:
        self.run(ml.JOBS, "ML_PREPROCESS", ml_pb2.PreprocessSpec(design="doe"), "preprocess")
        self.run(ml.JOBS, "ML_SCALE", ml_pb2.ScaleSpec(dataset="preprocess"), "scale")

    def tested(self) -> dict[str, Any]:
        return dict(self.run(ml.JOBS, "ML_TEST", ml_pb2.TestSpec(model="train"), "test").result)

    def train(self, **spec: Any) -> JobResult:
        parsed = ml_pb2.TrainSpec(**{"scaler": "scale", "folds": 3, **spec})
        return self.run(ml.JOBS, "ML_TRAIN", parsed, "train")
