"""A real Trino for the tests: its server and connectors from Maven, unpacked once a machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
import uuid
import zipfile
from pathlib import Path

from trino import dbapi, exceptions

from vistaflow_services.suite.ports import free_port

VERSION = "476"
CONNECTORS = ("memory", "tpch", "hive")
JAVA_VERSION = 24
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / f"vistaflow-trino-{VERSION}"
MAVEN = Path.home() / ".m2" / "repository" / "io" / "trino"

CONFIG = """coordinator=true
node-scheduler.include-coordinator=true
http-server.http.port={port}
node.internal-address=127.0.0.1
discovery.uri=http://127.0.0.1:{port}
query.max-memory=512MB
query.max-memory-per-node=256MB
memory.heap-headroom-per-node=128MB
"""
JVM = """-server
-Xmx1G
-XX:+UseSerialGC
-XX:TieredStopAtLevel=1
-XX:+ExitOnOutOfMemoryError
-XX:ReservedCodeCacheSize=256M
-Djdk.attach.allowAttachSelf=true
-Dfile.encoding=UTF-8
-XX:+EnableDynamicAgentLoading
--enable-native-access=ALL-UNNAMED
"""
HIVE = """connector.name=hive
hive.metastore=file
hive.metastore.catalog.dir=local:///hive
hive.non-managed-table-writes-enabled=true
hive.timestamp-precision=MICROSECONDS
fs.native-local.enabled=true
local.location={warehouse}
"""


def java_home() -> Path | None:
    """A Java that is new enough."""
    named = [os.environ.get("VISTAFLOW_TEST_JAVA_HOME"), os.environ.get("JAVA_HOME")]
    places = [Path(name) for name in named if name]
    for place in (*places, *sorted(Path("/usr/lib/jvm").glob("*"), reverse=True)):
        release = place / "release"
        if release.is_file():
            version = re.search(r'JAVA_VERSION="(\d+)', release.read_text())
            if version and int(version[1]) >= JAVA_VERSION:
                return place
    return None


def missing() -> str:
    """What the machine lacks to run it; empty if nothing."""
    if java_home() is None:
        return f"Trino needs Java {JAVA_VERSION} or newer"
    return "" if HOME.is_dir() or shutil.which("mvn") else "Trino comes by Maven, which is missing"


def install() -> Path:
    """The unpacked server."""
    if HOME.is_dir():
        return HOME
    draft = HOME.with_name(f"{HOME.name}-{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    with tarfile.open(_artifact("trino-server-core", "tar.gz")) as archive:
        archive.extractall(draft, filter="tar")
    server = draft / f"trino-server-core-{VERSION}"
    for name in CONNECTORS:
        with zipfile.ZipFile(_artifact(f"trino-{name}", "zip")) as archive:
            archive.extractall(draft)
        (draft / f"trino-{name}-{VERSION}").rename(server / "plugin" / name)
    try:
        server.rename(HOME)
    except OSError:
        assert HOME.is_dir()  # another run was first
    shutil.rmtree(draft, ignore_errors=True)
    return HOME


def _artifact(name: str, packaging: str) -> Path:
    path = MAVEN / name / VERSION / f"{name}-{VERSION}.{packaging}"
    if not path.is_file():
        artifact = f"io.trino:{name}:{VERSION}:{packaging}"
        command = ["mvn", "-q", "-B", "dependency:get", f"-Dartifact={artifact}"]
        subprocess.run([*command, "-Dtransitive=false"], check=True, timeout=600)
    return path


class TrinoServer:
    """A server on a port of its own; nothing of it is left when it is stopped."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.warehouse = folder / "warehouse"
        self._log = (folder / "log").open("wb")
        settings = folder / "etc" / "catalog"
        settings.mkdir(parents=True)
        self.warehouse.mkdir()
        etc = settings.parent
        (etc / "node.properties").write_text(
            f"node.environment=test\nnode.id=one\nnode.data-dir={folder / 'data'}\n"
        )
        (etc / "config.properties").write_text(CONFIG.format(port=self.port))
        (etc / "jvm.config").write_text(JVM)
        (etc / "log.properties").write_text("io.trino=WARN\n")
        for name in ("memory", "tpch"):
            (settings / f"{name}.properties").write_text(f"connector.name={name}\n")
        (settings / "hive.properties").write_text(HIVE.format(warehouse=self.warehouse))
        self._process = subprocess.Popen(
            [install() / "bin" / "launcher", "run", f"--etc-dir={etc}"],
            env={**os.environ, "JAVA_HOME": str(java_home())},
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Waits until a query succeeds; the server says that it is ready some seconds earlier."""
        while True:
            assert self._process.poll() is None, Path(self._log.name).read_text()[-2000:]
            try:
                cursor = dbapi.connect(host="127.0.0.1", port=self.port, user="test").cursor()
                cursor.execute("select count(*) from tpch.tiny.nation")
                assert cursor.fetchall() == [[25]]
                return
            except exceptions.Error:
                time.sleep(0.3)

    def stop(self) -> None:
        """Ends it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
