"""Serves queries: `python -m vistaflow_services.query`."""

from __future__ import annotations

from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow.api.query.v1 import query_pb2_grpc as rpc
from vistaflow_services.core.server.shell import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage
from vistaflow_services.query.config import Config
from vistaflow_services.query.servicer import QueryServicer


def build(stage: Stage, server: Server) -> None:
    """Adds the service to its server."""
    servicer = QueryServicer(stage)
    stage.complete = servicer.completed
    rpc.add_QueryServiceServicer_to_server(servicer, server)


SERVICE = StageService(
    name="query",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["QueryService"].full_name,),
    add_servicers=build,
    jobs_module="vistaflow_services.query.jobs",
    job_types=("QUERY",),
    stand_by=True,
    credentials=("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""What is served and which jobs are done."""


def main() -> None:
    """Serves until a signal stops the service."""
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
