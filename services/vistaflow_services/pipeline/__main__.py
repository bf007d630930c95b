"""Serves the pipeline: `python -m vistaflow_services.pipeline`."""

from __future__ import annotations

import os

from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc as rpc
from vistaflow_services.core.server.shell import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage, version
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.pipeline.config import Config
from vistaflow_services.pipeline.deliveries.loop import Courier
from vistaflow_services.pipeline.deliveries.sender import Sender
from vistaflow_services.pipeline.estimate import Estimates
from vistaflow_services.pipeline.reading import Reading
from vistaflow_services.pipeline.reuse import Reuse
from vistaflow_services.pipeline.schedules.loop import Scheduler
from vistaflow_services.pipeline.servicer import PipelineServicer
from vistaflow_services.pipeline.simulators import Simulators
from vistaflow_services.simulators.points import PointStore


def build(stage: Stage, server: Server) -> None:
    """Adds the service to its server."""
    assert isinstance(stage.config, Config)
    reuse = Reuse(stage.registry, stage.config.doe)
    library = DeckLibrary(stage.artifacts.root / "decks")
    reading = Reading(library, stage.config.deck_folders, reuse)
    simulators = Simulators(stage.registry, stage.config.doe)
    estimates = Estimates(
        store=PointStore(stage.artifacts.root / "points"),
        cores=stage.config.cores or len(os.sched_getaffinity(0)),
        limit_hours=stage.config.confirmation_hours,
    )
    servicer = PipelineServicer(stage.registry, reading, simulators, estimates, reuse)
    rpc.add_PipelineServiceServicer_to_server(servicer, server)


SERVICE = StageService(
    name="pipeline",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["PipelineService"].full_name,),
    add_servicers=build,
    loops=(
        lambda stage: Scheduler(stage.registry).run(),
        lambda stage: Courier(stage.registry, Sender(version())).run(),
    ),
)


def main() -> None:
    """Serves until a signal stops the service."""
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
