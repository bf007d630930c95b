"""A client that begins calls and cancels them at once: `canceling.py ADDRESS`, until it is killed.

Prints a line a thousand calls.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc


async def cancel_for_ever(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.RegistryServiceStub(channel)
        while True:
            for _ in range(20):
                opened = [
                    *(stub.WatchStates(pb.WatchStatesRequest()) for _ in range(25)),
                    *(stub.GetServerInfo(pb.GetServerInfoRequest()) for _ in range(25)),
                ]
                await asyncio.sleep(0)
                for call in opened:
                    call.cancel()
                await asyncio.sleep(0.001)
            print("1000", flush=True)


if __name__ == "__main__":
    asyncio.run(cancel_for_ever(sys.argv[1]))
