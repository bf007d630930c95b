"""Forks attempts that have their imports done: `python -m ...core.forkserver MODULE FD`.

Importing what a stage computes with takes a second or more of processor time. This process does
it once and then forks an attempt on demand, in milliseconds. It has never touched gRPC and runs
no thread of its own when it forks: it looks, and refuses to serve if an import has left one
running. A stage's jobs may name more to import in `PRELOAD`, and have a function `PREPARE` that
is called once, before the first fork.

Over the socket FD come requests with three descriptors: the attempt's stdin, its output, and where
its messages go. Back go JSON messages: {"ready"}, {"unfit"}, {"forked": pid}, {"ended": pid,
"code"}. When the other side closes, it ends; attempts that still run look after themselves.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any

from vistaflow_services.core.work import child

HARMLESS_THREADS = ("jemalloc_bg_thd",)
"""Threads of libraries that know how to be forked."""


def main(arguments: list[str]) -> None:
    """Imports, then forks until the worker is gone."""
    module, control = arguments[0], socket.socket(fileno=int(arguments[1]))
    os.set_inheritable(control.fileno(), False)
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "PRELOAD", ()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    getattr(loaded, "PREPARE", lambda: None)()
    threads = other_threads()
    if threads:
        _say(control, unfit=threads)
        return
    # What is here now stays for good; not looking at it again keeps its pages shared.
    gc.collect()
    gc.freeze()
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _say(control, ready=True)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 512)
        if control.fileno() in ready:
            data, descriptors, _, _ = socket.recv_fds(control, 64, 3)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                control.close()
                os.close(wake_read)
                os.close(wake_write)
                _become_attempt(module, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            _say(control, forked=pid)
        _tell_ended(control)


def other_threads() -> list[str]:
    """Names of the threads of this process that a fork would break."""
    names = []
    with contextlib.suppress(OSError):
        for thread_id in os.listdir("/proc/self/task"):
            if int(thread_id) != os.getpid():
                with open(
                    f"/proc/self/task/{thread_id}/comm", encoding="utf-8", errors="replace"
                ) as file:
                    names.append(file.read().strip())
    return [name for name in names if name not in HARMLESS_THREADS]


def _become_attempt(module: str, descriptors: list[int]) -> None:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        stdin, output, messages = descriptors
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(stdin)
        os.close(output)
        _reseed()
        child.main([module, str(messages)])
    finally:
        os._exit(1)


def _reseed() -> None:
    """Gives this attempt random numbers of its own where a job does not seed them."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _tell_ended(control: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _say(control, ended=pid, code=os.waitstatus_to_exitcode(status))


def _say(control: socket.socket, **message: Any) -> None:
    try:
        control.send(json.dumps(message).encode())
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
