"""A simulator of one's own behind gRPC: `python simulator_server.py 127.0.0.1:7001`.

Its address is registered with `VISTAFLOW_SIMULATOR_SERVERS=tcad=127.0.0.1:7001 vistaflow up`; a
deck names it by `simulator: grpc` and `server: tcad`.
"""

import math
import sys
from concurrent import futures

import grpc

from vistaflow.api.simulator.v1 import simulator_pb2, simulator_pb2_grpc


class Amplifier(simulator_pb2_grpc.SimulatorServiceServicer):
    """Gain and bandwidth of an amplifier by formulas."""

    def Evaluate(self, request, context):
        values = {name: value.number_value for name, value in request.parameters.items()}
        load = values["Width"] * values["Load"]
        if load > 5000:
            return simulator_pb2.EvaluateResponse(
                failure=simulator_pb2.FAILURE_NO_CONVERGENCE,
                message="the output saturates",
                log=f"width {values['Width']:g}, load {values['Load']:g}",
            )
        responses = {"Gain": 20 * math.log10(load), "bandwidth": 250 / load}
        return simulator_pb2.EvaluateResponse(responses=responses)


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    simulator_pb2_grpc.add_SimulatorServiceServicer_to_server(Amplifier(), server)
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
