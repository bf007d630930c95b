"""A stage service whose jobs behave and misbehave: `python stage_under_test.py`."""

from __future__ import annotations

from typing import Any

from google.protobuf import wrappers_pb2

from vistaflow.api.doe.v1 import doe_pb2, doe_pb2_grpc
from vistaflow_services.core.server.shell import Server
from vistaflow_services.core.stage import Stage, StageService, serve_stage

NAME = "vistaflow.api.doe.v1.DoeService"


class Servicer(doe_pb2_grpc.DoeServiceServicer):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def GenerateDesign(self, request: Any, context: Any) -> Any:
        spec = wrappers_pb2.StringValue(value=request.deck)
        job = await self._stage.submit(spec, "DOE", "design", request.request_id)
        return doe_pb2.GenerateDesignResponse(job=job)


def add(stage: Stage, server: Server) -> None:
    doe_pb2_grpc.add_DoeServiceServicer_to_server(Servicer(stage), server)


SERVICE = StageService(
    name="doe",
    service_names=(NAME,),
    add_servicers=add,
    jobs_module="misbehaving_jobs",
    job_types=("DOE",),
)

if __name__ == "__main__":
    serve_stage(SERVICE)
