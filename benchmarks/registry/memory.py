"""The memory that the registry uses for watchers.

    python benchmarks/registry/memory.py [--seconds 4]

Measured once the ring of the newest rows is full: with a thousand watchers of all kits while 300
rows a second are appended, and how much more for one watcher that never reads while as many rows of
1 KiB as the ring holds are appended, compared with the same without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import Table, arguments, run
from servers import Running, new_job, postgres, registry, rows_of, stub_of
from watch import Load

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.log.hub import RING_ROWS

WATCHERS = 1_000
APPEND_ROWS = 500


async def write(stub: Any, job_id: str, count: int) -> None:
    """Appends rows of about 1 KiB."""
    states = rows_of(job_id, APPEND_ROWS)
    for state in states:
        state.metadata["note"] = "x" * 900
    for _ in range(count // APPEND_ROWS):
        await stub.AppendStates(pb.AppendStatesRequest(states=states))


async def growth(server: Running, stub: Any, job_id: str, *, watched: bool) -> float:
    """MiB by which the registry grows while two rings of rows go by."""
    call = None
    if watched:
        head = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
        call = stub_of(server.address).WatchStates(pb.WatchStatesRequest(after_revision=head))
        await call.read()  # and never again
    before = server.memory_mib()
    await write(stub, job_id, 2 * RING_ROWS)
    after = server.memory_mib()
    if call is not None:
        call.cancel()
    return after - before


async def measure(home: Path) -> None:
    with postgres(home) as dsn:
        async with registry(dsn, home) as server:
            table = Table("memory of the registry")
            stub = stub_of(server.address)
            table.add("at its start", server.memory_mib(), "MiB")
            kits = home / "kits"
            jobs = [await new_job(stub) for _ in range(20)]
            kits.write_text(json.dumps(jobs))
            common = {"address": server.address, "kits": kits}
            crowd = await Load.start("watch", watchers=WATCHERS, of="all", **common)
            table.add(f"{WATCHERS:,} watchers", server.memory_mib(), "MiB", most=150)
            writer = await Load.start("write", rate=300, seconds=options.seconds, **common)
            appends = (await writer.end())["appends"]
            table.add("and 300 rows a second", server.memory_mib(), "MiB", most=150)
            await crowd.end(str(appends[-1][1]))
            _, job_id = jobs[0]
            await write(stub, job_id, 2 * RING_ROWS)
            table.add("and a ring full of rows of 1 KiB", server.memory_mib(), "MiB", most=150)
            for _ in range(2):
                alone = await growth(server, stub, job_id, watched=False)
                table.add("growth while rows go by", alone, "MiB")
                watched = await growth(server, stub, job_id, watched=True)
                table.add(
                    "growth beside a watcher that never reads",
                    watched,
                    "MiB",
                    most=20,
                    absolute=True,
                )


options = arguments(__doc__, seconds=4.0).parse_args() if __name__ == "__main__" else None
if __name__ == "__main__":
    run(measure)
