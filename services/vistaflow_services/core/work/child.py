"""The process of one attempt: `python -m vistaflow_services.core.work.child MODULE FD`.

It is two processes. The outer one only watches: it forks the inner one at once and takes in every
orphan. When the inner one ends, the worker sends SIGTERM, or the worker is gone (its end of stdin
closes), it ends all processes that are left below it. The inner one imports MODULE, reads one line
of JSON from stdin, does the job, and writes messages as JSON lines to FD:

    {"kind": "progress", "phase", "completed", "total", "unit", "message"}
    {"kind": "task", "name", "status", "metadata", "reason"}
    {"kind": "result", "result": {...}}                                    the last, or
    {"kind": "failed", "reason", "message", "hint", "details"}             the last, or
    {"kind": "crashed", "error"}                                           the last

Neither knows gRPC. Both may be started before there is a job, so that the heavy imports are done
when one comes. Output goes to stdout and stderr: the job's log.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vistaflow_services.core.work.process_groups import adopt_orphans, die_with_parent, signal_tree

GRACE_SECONDS = 3.0
"""Between SIGTERM and SIGKILL."""

_REPEATABLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError
)  # fmt: skip
"""Exceptions caused by a fault of the code or of its input. A job depends only on its inputs and
its seed, so another attempt would fail in the same way."""

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def main(arguments: list[str]) -> None:
    """Forks the inner process and watches it to its end."""
    module, descriptor = arguments[0], int(arguments[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    adopt_orphans()
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    # Blocked until the handlers are installed: a signal that comes before would be lost, or would
    # end this process and leave the inner one alone.
    watched = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    outer = os.getpid()
    inner = os.fork()
    if inner == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        os.close(wake_read)
        os.close(wake_write)
        die_with_parent(outer)
        _exit_with(lambda: _work(module, descriptor))
    os.close(descriptor)
    signals_received: list[int] = []
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals_received.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    status = _watch(inner, wake_read, signals_received)
    _end_all()
    _end_like(status)


def _watch(inner: int, wake: int, signals_received: list[int]) -> int:
    """Waits for the end of the inner process, and ends it on demand; returns its status.

        the worker is gone        SIGKILL to all processes, at once
        SIGTERM or SIGINT came    SIGTERM to all; after `GRACE_SECONDS` SIGKILL, repeated for
                                  processes that others started meanwhile
        a child ended (SIGCHLD)   collected; the watch ends if it is the inner process

    Args:
        inner: The inner process.
        wake: Becomes readable when a signal came.
        signals_received: The numbers of SIGTERM and SIGINT, added by their handlers.
    """
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    # No events: only that the worker's end is closed. What is in the pipe is for the inner one.
    poll.register(0, 0)
    give_up = 0.0
    while True:
        timeout = max(0.0, give_up - time.monotonic()) * 1000 if give_up else None
        ready = dict(poll.poll(timeout))
        if wake in ready:
            # Emptied before the children are looked at: a signal after that wakes the poll again.
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 512)
        status = _reap(inner)
        if status is not None:
            return status
        if 0 in ready:
            poll.unregister(0)  # it stays ready, and the poll would return for it without end
            signal_tree(os.getpid(), signal.SIGKILL)
        elif signals_received and not give_up:
            give_up = time.monotonic() + GRACE_SECONDS
            signal_tree(os.getpid(), signal.SIGTERM)
        elif give_up and time.monotonic() >= give_up:
            signal_tree(os.getpid(), signal.SIGKILL)
            give_up = time.monotonic() + 0.2


def _reap(inner: int | None) -> int | None:
    """Collects ended children; the inner one's status if it is among them."""
    inner_status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            if process == inner:
                inner_status = status
    return inner_status


def _end_all() -> None:
    """Kills all processes that the inner one left behind."""
    deadline = time.monotonic() + 2.0
    while signal_tree(os.getpid(), signal.SIGKILL) and time.monotonic() < deadline:
        _reap(None)
        time.sleep(0.01)


def _end_like(status: int) -> None:
    """Ends this process as the inner one ended, by the same signal or code."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        # SIGKILL cannot have a handler, so none is reset.
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
        time.sleep(1)  # the signal may take a moment; an ordinary end must not come first
    os._exit(abs(code))


def _exit_with(work: Callable[[], None]) -> None:
    """Runs `work` and ends the process in any case, without unwinding the outer's frames."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Not sys.exit: threads that a job left behind must not hold up its end.
        os._exit(code)


def _work(module: str, descriptor: int) -> None:
    """The inner process: imports the module, waits for the header, does the job."""
    messages = os.fdopen(descriptor, "w", encoding="utf-8")
    os.set_inheritable(descriptor, False)

    def report(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    stage = importlib.import_module(module)
    jobs: dict[str, Callable[[Any], dict[str, Any]]] = stage.JOBS
    # What the attempt needs whatever its job is; there may be time for it before one comes.
    getattr(stage, "STAND_BY", lambda: None)()
    report({"kind": "ready"})
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the worker ended, or has no job for this process
    # What the job starts must neither read from here nor hold the worker's end open.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    header = json.loads(line)
    if header.get("memory_bytes"):
        resource.setrlimit(resource.RLIMIT_DATA, (header["memory_bytes"], header["memory_bytes"]))
    report(run(jobs, header, report))


def run(
    jobs: dict[str, Callable[[Any], dict[str, Any]]],
    header: dict[str, Any],
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Does the job of the header and returns the last message."""
    from vistaflow_services.core.errors import ServiceError
    from vistaflow_services.core.work.attempt import JobError

    os.chdir(header["folder"])
    try:
        attempt = make_attempt(header, report)
        return _result(jobs[header["job_type"]](attempt), attempt.artifacts)
    except JobError as error:
        return _failed(error.reason, error.message, error.hint, error.details)
    except ServiceError as error:
        mistakes = [
            {"field": violation.field, "description": violation.description}
            for violation in error.violations
        ]
        details = {"violations": mistakes} if mistakes else {}
        return _failed(error.reason, error.message, "", details)
    except MemoryError:
        traceback.print_exc()
        if not header.get("memory_bytes"):
            return {"kind": "crashed", "error": "MemoryError"}
        limit = f"{header['memory_bytes'] / 2**20:,.0f} MiB"
        hint = "make the job smaller or raise the service's memory limit"
        return _failed("MEMORY_LIMIT", f"needs more memory than its limit of {limit}", hint, {})
    except Exception as error:
        # The text may hold anything; it goes into the job's log and nowhere else.
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
            message = f"a file could not be written: {os.strerror(error.errno)}"
            hint = "free or repair the disk of the artifacts, then retry the job"
            return _failed("STORAGE", message, hint, {})
        if isinstance(error, _REPEATABLE):
            log = f"vistaflow logs {header['job_id']}"
            message = f"ended by an unexpected {type(error).__name__}; see `{log}`"
            hint = "this is a fault of the stage, and another attempt would fail in the same way"
            return _failed("INTERNAL", message, hint, {})
        return {"kind": "crashed", "error": type(error).__name__}


def make_attempt(header: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> Any:
    """The attempt that a header describes."""
    from vistaflow_services.core.results import JobResult
    from vistaflow_services.core.work.artifacts import ArtifactStore
    from vistaflow_services.core.work.attempt import Attempt

    return Attempt(
        kit_id=header["kit_id"],
        job_id=header["job_id"],
        number=header["attempt"],
        job_type=header["job_type"],
        name=header["name"],
        spec=_spec(header["spec_type"], base64.b64decode(header["spec"])),
        inputs={name: JobResult(**result) for name, result in header["inputs"].items()},
        folder=Path(header["folder"]),
        artifacts=ArtifactStore(Path(header["artifacts"])),
        workers=header["workers"],
        completed=header.get("completed", False),
        registry=header.get("registry", ""),
        report=report,
    )


def _spec(type_url: str, value: bytes) -> Any:
    """The spec as the message it is; the stage's module has imported its type."""
    from google.protobuf import descriptor_pool, message_factory

    from vistaflow_services.core.work.attempt import JobError

    name = type_url.rpartition("/")[2]
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
        return message_factory.GetMessageClass(descriptor).FromString(value)
    except Exception as error:
        raise JobError(
            f"the job's spec is no {name or 'message'} that this stage knows",
            reason="WRONG_SPEC",
            hint="create the job through the stage's own service, of the same version",
        ) from error


def _result(result: Any, artifacts: Any) -> dict[str, Any]:
    from vistaflow_services.core.message_limits import NESTING, is_deep
    from vistaflow_services.core.work.attempt import MAX_RESULT_BYTES, JobError, plain

    manifest = plain(result)
    size = len(json.dumps(manifest))
    if not isinstance(manifest, dict) or size > MAX_RESULT_BYTES:
        raise JobError(
            f"the job's result has {size:,} bytes of JSON, at most {MAX_RESULT_BYTES:,} fit",
            reason="RESULT_TOO_LARGE",
            hint="this is the stage's fault: what is large belongs into an artifact",
        )
    # It is recorded one level deeper, as `result`.
    if is_deep(manifest, NESTING - 1):
        raise JobError(
            f"the job's result is nested more than {NESTING - 1} levels deep",
            reason="RESULT_TOO_DEEP",
            hint="this is a fault of the stage: nested data belongs into an artifact",
        )
    artifacts.settle_described(manifest)
    return {"kind": "result", "result": manifest}


def _failed(reason: str, message: str, hint: str, details: dict[str, Any]) -> dict[str, Any]:
    from vistaflow_services.core.work.attempt import plain

    # The job's log has the reason, too.
    print("; ".join(part for part in (message, hint) if part), file=sys.stderr, flush=True)
    return {
        "kind": "failed",
        "reason": reason,
        "message": message[:3000],
        "hint": hint[:500],
        "details": plain(details),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
