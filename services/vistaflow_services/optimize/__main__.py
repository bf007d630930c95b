"""Serves studies: `python -m vistaflow_services.optimize`."""

from __future__ import annotations

from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow.api.optimize.v1 import optimize_pb2_grpc as rpc
from vistaflow_services.core.server.shell import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage
from vistaflow_services.optimize.config import Config
from vistaflow_services.optimize.servicer import OptimizeServicer


def build(stage: Stage, server: Server) -> None:
    """Adds the service to a server that is not yet started."""
    rpc.add_OptimizeServiceServicer_to_server(OptimizeServicer(stage), server)


SERVICE = StageService(
    name="optimize",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["OptimizeService"].full_name,),
    add_servicers=build,
    jobs_module="vistaflow_services.optimize.jobs",
    job_types=("OPTIMIZE",),
)
"""What is served and which jobs are done."""


def main() -> None:
    """Reads the settings and serves until SIGTERM."""
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
