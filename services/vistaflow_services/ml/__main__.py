"""Serves the surrogates: `python -m vistaflow_services.ml`."""

from __future__ import annotations

from vistaflow.api.ml.v1 import ml_pb2 as pb
from vistaflow.api.ml.v1 import ml_pb2_grpc as rpc
from vistaflow_services.core.server.shell import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage
from vistaflow_services.ml.config import Config
from vistaflow_services.ml.servicer import MlServicer


def build(stage: Stage, server: Server) -> None:
    """Adds the service to its server."""
    rpc.add_MlServiceServicer_to_server(MlServicer(stage), server)


SERVICE = StageService(
    name="ml",
    config=Config,
    service_names=(pb.DESCRIPTOR.services_by_name["MlService"].full_name,),
    add_servicers=build,
    jobs_module="vistaflow_services.ml.jobs",
    job_types=("ML_PREPROCESS", "ML_SCALE", "ML_TRAIN", "ML_TEST"),
)
"""What is served and which jobs are done."""


def main() -> None:
    """Serves until a signal stops the service."""
    serve_stage(SERVICE)


if __name__ == "__main__":
    main()
