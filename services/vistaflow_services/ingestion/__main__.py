"""Serves ingestion: `python -m vistaflow_services.ingestion`."""

from __future__ import annotations

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow_services.core.server import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.servicer import IngestionServicer


def build(stage: Stage, server: Server) -> None:
    """Adds the service to its server."""
    rpc.add_IngestionServiceServicer_to_server(IngestionServicer(stage), server)


SERVICE = StageService(
    name="ingestion",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["IngestionService"].full_name,),
    add_servicers=build,
    jobs_module="vistaflow_services.ingestion.jobs",
    job_types=("DECK_COLLECTION",),
)


def main() -> None:
    """Serves until told to stop."""
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
