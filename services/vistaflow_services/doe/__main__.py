"""Serves the designs of experiments: `python -m vistaflow_services.doe`."""

from __future__ import annotations

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow.api.doe.v1 import doe_pb2_grpc as rpc
from vistaflow_services.core.server.shell import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage
from vistaflow_services.doe.config import Config
from vistaflow_services.doe.servicer import DoeServicer


def build(stage: Stage, server: Server) -> None:
    """Adds the service to its server."""
    rpc.add_DoeServiceServicer_to_server(DoeServicer(stage), server)


SERVICE = StageService(
    name="doe",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["DoeService"].full_name,),
    add_servicers=build,
    jobs_module="vistaflow_services.doe.jobs",
    job_types=("DOE",),
)


def main() -> None:
    """Serves until a signal stops the service."""
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
