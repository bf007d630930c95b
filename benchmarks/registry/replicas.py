"""How much two registries on one database append, against one.

    python benchmarks/registry/replicas.py [--seconds 3] [--rounds 5]

The load comes from `h2load` (Debian's nghttp2-client), because two registries and a client in
Python would measure the client. Every call appends one row; 64 calls are in progress, half of them
for each of two kits. The count of h2load is compared with the rows of the log afterwards.
"""

from __future__ import annotations

import asyncio
import functools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench import Table, arguments, interleave, run
from servers import new_job, postgres, registry, rows_of, stub_of

from vistaflow.api.registry.v1 import registry_pb2 as pb

PATH = "/vistaflow.api.registry.v1.RegistryService/AppendStates"
RATE = re.compile(r"finished in [\d.]+m?s, ([\d.]+) req/s")
DONE = re.compile(r"(\d+) succeeded")


async def body_of_new_job(address: str, file: Path) -> Path:
    """A call that appends a row to a job of its own, as it goes over the wire."""
    job_id = (await new_job(stub_of(address)))[1]
    message = pb.AppendStatesRequest(states=rows_of(job_id, 1)).SerializeToString()
    file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return file


async def load(address: str, body: Path, connections: int, seconds: float) -> tuple[float, int]:
    """Calls a second by one h2load, and how many were answered."""
    process = await asyncio.create_subprocess_exec(
        "h2load",
        f"--clients={connections}",
        "--max-concurrent-streams=8",
        f"--duration={max(1, round(seconds))}",  # h2load takes whole ones
        f"--data={body}",
        "--header=content-type: application/grpc",
        "--header=te: trailers",
        f"http://{address}{PATH}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    rate, done = RATE.search(output), DONE.search(output)
    if process.returncode or rate is None or done is None:
        raise SystemExit(f"h2load failed:\n{output}")
    return float(rate[1]), int(done[1])


async def turn(
    addresses: Sequence[str], bodies: Sequence[Path], seconds: float
) -> dict[str, float]:
    """Two h2loads of 4 connections with 8 calls each, one a body, on these addresses."""
    stub = stub_of(addresses[0])
    before = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
    runs = [
        load(addresses[place % len(addresses)], body, 4, seconds)
        for place, body in enumerate(bodies)
    ]
    results = await asyncio.gather(*runs)
    await asyncio.sleep(0.5)
    rows = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision - before
    answered = sum(done for _, done in results)
    # Calls that were under way at the end are in the log and not among the answers.
    assert answered <= rows <= answered + 2 * 64, f"{answered} answers, {rows} rows"
    return {"rate": sum(rate for rate, _ in results)}


async def measure(home: Path) -> None:
    if shutil.which("h2load") is None:
        print("left out: it needs h2load (apt-get install nghttp2-client)")
        return
    with postgres(home) as dsn:
        async with registry(dsn, home, name="a") as one, registry(dsn, home, name="b") as two:
            bodies = [await body_of_new_job(one.address, home / f"body-{n}") for n in range(2)]
            both = (one.address, two.address)
            got = await interleave(
                {
                    "one": functools.partial(turn, both[:1], bodies, options.seconds),
                    "two": functools.partial(turn, both, bodies, options.seconds),
                },
                options.rounds,
            )
    table = Table("appends of one row, 64 calls under way from C")
    table.add("one registry", got["one"]["rate"], "/s")
    table.add(
        "two registries", got["two"]["rate"], "/s", against=got["one"]["rate"], of="of one",
        least=1.15,
    )  # fmt: skip


options = arguments(__doc__, seconds=3.0).parse_args()
if __name__ == "__main__":
    run(measure)
