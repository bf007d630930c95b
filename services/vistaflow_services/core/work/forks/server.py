"""Forks attempts that have their imports done: `python -m ...forks.server MODULE... FD`.

Importing what a stage computes with takes a second or more of processor time. This process does
it once, for one stage or for all of a suite, and then forks an attempt on demand, in milliseconds.
It has never touched gRPC and runs no thread of its own when it forks: it looks, and refuses to
serve if an import has left one running. A stage's jobs may name more to import in `PRELOAD`, and
have a function `PREPARE` that is called once, before the first fork.

Over the socket FD come the connections of services, one descriptor a message. When the other side
closes, this process ends; attempts that still run look after themselves. Over a connection come
requests, the name of a module with four descriptors: the attempt's stdin, its output, where its
messages go, and its environment as a file of JSON. Only the attempt reads its environment, so that
no secret in it gets into this process and the attempts of other stages. Back go JSON messages:
{"ready": [module, ...]}, {"forked": pid}, {"ended": pid, "code"}.
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
import traceback
from collections import deque
from collections.abc import Iterator
from typing import Any

from vistaflow_services.core.work import child

HARMLESS_THREADS = ("jemalloc_bg_thd",)
"""Threads of libraries that know how to be forked."""

OPTIONAL = ("pandas",)
"""Packages that libraries load only to recognise their objects, which no job has: 36 MiB."""

MAX_REQUEST_BYTES = 512
DESCRIPTORS = 4
"""Descriptors that come with a request."""


def main(arguments: list[str]) -> None:
    """Imports, then forks until the owner is gone."""
    *modules, descriptor = arguments
    control = socket.socket(fileno=int(descriptor))
    os.set_inheritable(control.fileno(), False)
    loaded = [module for module in modules if _load(module)]
    threads = other_threads()
    if threads:
        print(f"no fork server: imports left threads {threads}", file=sys.stderr)
    if threads or not loaded:
        raise SystemExit(1)
    # What is here now stays for good; not looking at it again keeps its pages shared.
    gc.collect()
    gc.freeze()
    Forking(control, loaded).serve()


def _load(module: str) -> bool:
    """Imports the jobs of a stage; whether that succeeded."""
    with _without(*OPTIONAL):
        try:
            loaded = importlib.import_module(module)
            for name in getattr(loaded, "PRELOAD", ()):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            getattr(loaded, "PREPARE", lambda: None)()
        except Exception:
            # Its attempts are started from nothing, and say the same; the other stages go on.
            traceback.print_exc()
            return False
    return True


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """While the block runs, packages that are not loaded yet pass for not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class Client:
    """One service. Messages wait here while it does not read, which holds up no other."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._waiting: deque[bytes] = deque()
        connection.setblocking(False)

    def tell(self, **message: Any) -> None:
        """Sends a message now or later."""
        self._waiting.append(json.dumps(message).encode())
        self.flush()

    def flush(self) -> None:
        """Sends what waits, as far as the service reads it."""
        while self._waiting:
            try:
                self.socket.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self._waiting.clear()  # the service is gone, which reading will show
                return
            self._waiting.popleft()

    @property
    def events(self) -> int:
        """What to wait for."""
        return select.POLLIN | (select.POLLOUT if self._waiting else 0)


class Forking:
    """The loop that forks.

    Args:
        control: Where connections come from.
        modules: The modules that are imported.
    """

    def __init__(self, control: socket.socket, modules: list[str]) -> None:
        self._control = control
        self._modules = modules
        self._connections: dict[int, Client] = {}
        self._owners: dict[int, Client] = {}
        """The connections over which living attempts were asked for, by their pids."""

    def serve(self) -> None:
        """Forks until the control socket is closed by its other side."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            poll.register(self._wake_read, select.POLLIN)
            for descriptor, connection in self._connections.items():
                poll.register(descriptor, connection.events)
            ready = dict(poll.poll())
            if ready.pop(self._wake_read, 0):
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 512)
            if ready.pop(self._control.fileno(), 0) and not self._accept():
                return
            for descriptor, events in ready.items():
                connection = self._connections[descriptor]
                connection.flush()
                if events & ~select.POLLOUT and not self._answer(connection):
                    del self._connections[descriptor]
                    connection.socket.close()
            self._tell_ended()

    def _accept(self) -> bool:
        """Takes a connection; False when there will be no more."""
        data, descriptors, _, _ = socket.recv_fds(
            self._control, MAX_REQUEST_BYTES, 1, socket.MSG_CMSG_CLOEXEC
        )
        for descriptor in descriptors:
            connection = Client(socket.socket(fileno=descriptor))
            self._connections[descriptor] = connection
            connection.tell(ready=self._modules)
        return bool(data)

    def _answer(self, connection: Client) -> bool:
        """Forks what a service asks for; False when the service is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                connection.socket, MAX_REQUEST_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        if len(descriptors) == DESCRIPTORS:
            pid = os.fork()
            if pid == 0:
                self._become_attempt(data.decode(), descriptors)
            self._owners[pid] = connection
            connection.tell(forked=pid)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _become_attempt(self, module: str, descriptors: list[int]) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A connection that stayed open here would hide the end of this server.
            for held in (self._control, *(other.socket for other in self._connections.values())):
                held.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            os.setsid()
            stdin, output, messages, environment = descriptors
            os.dup2(stdin, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(stdin)
            os.close(output)
            with os.fdopen(environment, "rb") as file:
                file.seek(0)
                variables = json.load(file)
            os.environ.clear()
            os.environ.update(variables)
            _reseed()
            child.main([module, str(messages)])
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _tell_ended(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._owners.pop(pid).tell(ended=pid, code=os.waitstatus_to_exitcode(status))


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


def _reseed() -> None:
    """Gives this attempt random numbers of its own where a job does not seed them."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


if __name__ == "__main__":
    main(sys.argv[1:])
