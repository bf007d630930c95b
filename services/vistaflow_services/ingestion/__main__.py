"""Serves ingestion: `python -m vistaflow_services.ingestion`."""

from __future__ import annotations

import resource

from vistaflow._rpc.credentials import TOKEN
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow_services.core.server.shell import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.upkeep import keep_stores
from vistaflow_services.ingestion.servicer import IngestionServicer
from vistaflow_services.ingestion.uploads import remove_expired


def build(stage: Stage, server: Server) -> None:
    """Adds the service to its server."""
    servicer = IngestionServicer(stage)
    stage.complete = servicer.completed
    stage.open_stored = servicer.open_stored
    rpc.add_IngestionServiceServicer_to_server(servicer, server)


SERVICE = StageService(
    name="ingestion",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["IngestionService"].full_name,),
    add_servicers=build,
    jobs_module="vistaflow_services.ingestion.jobs",
    loops=(remove_expired, keep_stores),
    job_types=(
        *("DECK_COLLECTION", "CONVERT", "IMPORT", "COLLECT", "DELIVER"),
        *("BACKUP", "CLEANUP", "REPAIR"),
    ),
    credentials=("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", TOKEN),
)


def main() -> None:
    """Serves until a signal stops the service."""
    # Keys of callers are in its memory and in that of its summaries.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
