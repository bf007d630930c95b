"""A worker in a process of its own, to be frozen and killed: `python -m tests.faults.worker`.

Runs attempts that take as long as their spec says and end as it says; a poisoned one kills the
worker. It goes on with what it runs when the stream breaks, as workers do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc

from tests.faults.client import BROKEN, word
from tests.faults.history import Recorder
from tests.faults.reuse import connect
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

JOB_TYPE = common.JOB_TYPE_DOE
CAPACITY = 2
BEAT_SECONDS = 0.5


class Worker:
    """One worker."""

    def __init__(self, name: str, address: str, recorder: Recorder) -> None:
        self.name = name
        self.recorder = recorder
        self.address = address
        self.running: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def run(self) -> None:
        while True:
            channel, stub = connect(self.address)
            try:
                await self._session(stub)
            except BROKEN as error:
                self.recorder.note("failure", detail=str(error)[:200])
            finally:
                await channel.close()
            await asyncio.sleep(0.1)

    async def _session(self, stub: Any) -> None:
        call = stub.LeaseJobs()
        refs = [pb.AttemptRef(job_id=job, attempt=attempt) for job, attempt in self.running]
        hello = pb.WorkerHello(
            worker=self.name, job_types=[JOB_TYPE], capacity=CAPACITY, running=refs
        )
        await call.write(pb.LeaseJobsRequest(hello=hello))
        beating = asyncio.create_task(self._beat(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                kind = message.WhichOneof("message")
                if kind == "grant":
                    self._begin(message.grant)
                    await call.write(self._heartbeat())
                elif kind == "directive":
                    key = (message.directive.job_id, message.directive.attempt)
                    self.recorder.note("directive", job=key[0], attempt=key[1])
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            call.cancel()

    async def _beat(self, call: Any) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await call.write(self._heartbeat())

    def _heartbeat(self) -> pb.LeaseJobsRequest:
        attempts = [
            pb.AttemptProgress(job_id=job, attempt=attempt) for job, attempt in self.running
        ]
        return pb.LeaseJobsRequest(heartbeat=pb.Heartbeat(attempts=attempts))

    def _begin(self, grant: pb.Grant) -> None:
        key = (grant.job.job_id, grant.job.attempt)
        self.recorder.note("grant", job=key[0], attempt=key[1])
        task = asyncio.create_task(self._work(key, grant.job.spec.value.decode()))
        self.running[key] = task
        task.add_done_callback(lambda _: self.running.pop(key, None))

    async def _work(self, key: tuple[str, int], spec: str) -> None:
        if spec == "poison":
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(float(spec))
        state = common.State(job_id=key[0], attempt=key[1], seq=1, status=common.STATUS_FINISHED)
        start = time.monotonic()
        channel, stub = connect(self.address)
        try:
            while True:
                try:
                    answer = await stub.AppendStates(
                        pb.AppendStatesRequest(states=[state]), timeout=2
                    )
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
        finally:
            await channel.close()
        result = answer.results[0]
        self.recorder.note(
            "append",
            start=start,
            outcome="answered",
            rows=[[key[0], key[1], 1, "", word(state.status)]],
            results=[[pb.Verdict.Name(result.verdict).removeprefix("VERDICT_"), result.revision]],
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    recorder = Recorder(given.folder, given.name)
    recorder.note("worker", pid=os.getpid())
    asyncio.run(Worker(given.name, given.address, recorder).run())


if __name__ == "__main__":
    main()
