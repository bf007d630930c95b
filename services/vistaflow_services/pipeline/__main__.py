"""Serves the pipeline: `python -m vistaflow_services.pipeline`."""

from __future__ import annotations

from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc as rpc
from vistaflow_services.core.server import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.pipeline.config import Config
from vistaflow_services.pipeline.reading import Reading
from vistaflow_services.pipeline.servicer import PipelineServicer
from vistaflow_services.pipeline.simulators import Simulators


def build(stage: Stage, server: Server) -> None:
    """Adds the service to its server."""
    assert isinstance(stage.config, Config)
    reading = Reading(DeckLibrary(stage.artifacts.root / "decks"), stage.config.deck_folders)
    simulators = Simulators(stage.registry, stage.config.doe)
    servicer = PipelineServicer(stage.registry, reading, simulators)
    rpc.add_PipelineServiceServicer_to_server(servicer, server)


SERVICE = StageService(
    name="pipeline",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["PipelineService"].full_name,),
    add_servicers=build,
)


def main() -> None:
    """Serves until told to stop."""
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
