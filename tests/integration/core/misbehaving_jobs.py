"""Jobs that behave and misbehave, run by the tests in the process of an attempt."""

import builtins
import ctypes
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
from google.protobuf import wrappers_pb2

from vistaflow_services.core.errors import FieldViolation, InvalidError
from vistaflow_services.core.work.attempt import Attempt, JobError


def _spawn(*, own_session: bool) -> int:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=own_session)
    time.sleep(0.3)
    return process.pid


def run(attempt: Attempt) -> dict[str, Any]:
    what = json.loads(attempt.unpack(wrappers_pb2.StringValue).value)
    act = what["do"]
    if act == "steps":
        for number in range(what["count"]):
            name = f"step-{number}"
            attempt.task(name, "RUNNING")
            attempt.progress("steps", number + 1, what["count"], unit="steps")
            time.sleep(what.get("seconds", 0))
            attempt.task(name, "FINISHED", {"number": number})
        print("all steps done")
        return {"count": what["count"], "attempt": attempt.number, "inputs": sorted(attempt.inputs)}
    if act == "return":
        return dict(what["value"])
    if act == "write":
        path = attempt.folder / "out.txt"
        return {"file": attempt.artifacts.write(path, what["text"].encode())}
    if act == "write much":
        attempt.artifacts.write(attempt.folder / "before.bin", b"x" * 1000)
        with attempt.artifacts.writing(attempt.folder / f"much.{what['kind']}") as temporary:
            if what["kind"] == "parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                pq.write_table(pa.table({"x": np.random.random(what["bytes"] // 8)}), temporary)
            else:
                temporary.write_bytes(b"x" * what["bytes"])
            if what.get("error"):
                raise OSError(what["error"], "the disk says so")
        return {}
    if act == "environment":
        return {
            "threads": os.environ["OMP_NUM_THREADS"],
            "grpc": "grpc" in sys.modules,
            "stdin": sys.stdin.read(),
            "session": os.getsid(0) == os.getpgid(0) == os.getppid(),
            "secret": os.environ.get("VISTAFLOW_TEST_TOKEN"),
            "workers": attempt.workers,
        }
    if act == "sleep":
        pids = [os.getpid(), os.getppid()]
        if what.get("children"):
            pids += [_spawn(own_session=False), _spawn(own_session=True)]
        attempt.task("pids", "RUNNING", {"pids": pids})
        time.sleep(what.get("seconds", 300))
        return {}
    if act == "leave":
        attempt.task("pids", "RUNNING", {"pids": [_spawn(own_session=True)]})
        return {}
    if act == "random":
        import random

        drawn = [float(np.random.random()), random.random()]
        return {"drawn": drawn}
    if act == "print":
        for number in range(what["lines"]):
            print(f"line {number:07} " + "x" * 80)
        return {}
    return _fail(attempt, act, what)


def _fail(attempt: Attempt, act: str, what: dict[str, Any]) -> dict[str, Any]:
    if act == "crash once" and attempt.number > 1:
        return {"attempt": attempt.number}
    if act in ("crash", "crash once"):
        print("about to crash", flush=True)
        ctypes.string_at(0)
    if act == "exit":
        os._exit(what["code"])
    if act == "raise":
        fault: type[Exception] = getattr(builtins, what.get("fault", "RuntimeError"))
        raise fault("secret aes256cbckey=deadbeef")
    if act == "known":
        raise JobError("all 40 runs failed", reason="ALL_FAILED", hint="widen the range")
    if act == "invalid":
        raise InvalidError("no", violations=[FieldViolation(field="a.b", description="bad")])
    if act == "memory":
        return {"size": len(bytearray(what["bytes"]))}
    if act == "large":
        return {"rows": "x" * 60_000}
    raise AssertionError(act)


JOBS = {"DOE": run}
