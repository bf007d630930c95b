"""A suite as `vistaflow up` starts it: open to the user who started it, and to others by token."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import vistaflow
from tests.e2e.conftest import Suite, start_suite  # type: ignore[import-not-found]
from tests.processes import files_below  # type: ignore[import-not-found]
from tests.strangers import (  # type: ignore[import-not-found]
    Stranger,
    as_root,
    methods,
    stranger,
)
from vistaflow._machine.local import token_file
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.registry.v1 import registry_pb2

DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE"}


@pytest.fixture(scope="module")
def other() -> Iterator[Stranger]:
    """Another user of the machine."""
    with stranger() as process:
        yield process


def endpoints(suite: Suite) -> dict[str, str]:
    """Where the gRPC services listen; tests/integration/gateway has the door of the gateway."""
    found: dict[str, str] = json.loads((suite.home / "run" / "endpoints.json").read_bytes())
    del found["gateway"]
    return found


def cli(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose environment names the home and nothing else."""
    return subprocess.run(
        [sys.executable, "-m", "vistaflow.cli.app", *arguments],
        env={"VISTAFLOW_HOME": str(home), "COLUMNS": "120", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@as_root
def test_no_call_of_any_service_lets_another_user_in_without_the_token(
    suite: Suite, other: Stranger
) -> None:
    addresses = endpoints(suite)
    token = token_file(suite.home).read_text().strip()
    wrong = []
    for service, method, stream in methods():
        code, message = other.call(addresses[service], method, stream=stream)
        if code != "UNAUTHENTICATED" or "vistaflow token create" not in message:
            wrong.append((method, code, message))
        code, message = other.call(addresses[service], method, stream=stream, token=token)
        if code in DENIED:
            wrong.append((method, code, message))
    assert wrong == []
    assert {service for service, _, _ in methods()} == set(addresses)


@as_root
def test_another_user_cannot_list_cancel_or_submit(suite: Suite, other: Stranger) -> None:
    with vistaflow.connect(suite.address) as client:
        kit = client.kit(client.create_kit("mine", ["DOE"]).kit_id)
    registry = "/vistaflow.api.registry.v1.RegistryService/"
    submit = pipeline_pb2.RunKitRequest(kit_yaml="name: theirs\ndeck: branin\n")
    attempts = [
        (suite.address, f"{registry}ListKits", registry_pb2.ListKitsRequest()),
        (suite.address, f"{registry}CancelKit", registry_pb2.CancelKitRequest(kit_id=kit.kit_id)),
        (endpoints(suite)["pipeline"], "/vistaflow.api.pipeline.v1.PipelineService/RunKit", submit),
    ]
    for address, method, request in attempts:
        code, message = other.call(address, method, request.SerializeToString())
        assert code == "UNAUTHENTICATED", message
        assert str(suite.home) not in message
    with vistaflow.connect(suite.address) as client:
        assert client.kit(kit.kit_id).status == kit.status == "QUEUED"
        assert "theirs" not in [each.name for each in client.kits()]


@as_root
def test_a_token_that_the_owner_made_counts_at_every_service(suite: Suite, other: Stranger) -> None:
    addresses = endpoints(suite)
    with vistaflow.connect(suite.address) as client:
        _, token = client.create_token("the wall", "viewer", project="optics")
    for service, method, stream in methods():
        name = method.rpartition("/")[2]
        if name in {"ListKits", "ListDecks", "ListGenerators", "ListModels"}:
            code, message = other.call(addresses[service], method, stream=stream, token=token)
            assert code in {"OK", "INVALID_ARGUMENT"}, message
        elif name in {"CreateKit", "RunKit", "CollectDecks", "Train", "OptimizeDesign"}:
            code, message = other.call(addresses[service], method, stream=stream, token=token)
            assert code == "PERMISSION_DENIED", message


@as_root
def test_health_is_for_everybody_and_reflection_is_not(suite: Suite, other: Stranger) -> None:
    for address in endpoints(suite).values():
        code, _ = other.call(address, "/grpc.health.v1.Health/Check")
        assert code == "OK"
        for version in ("v1", "v1alpha"):
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            code, _ = other.call(address, method, stream="both")
            assert code in {"UNAUTHENTICATED", "UNIMPLEMENTED"}


def test_the_user_who_started_it_needs_no_token_at_any_port(suite: Suite) -> None:
    addresses = endpoints(suite)
    wrong = []
    for service, method, stream in methods():
        if stream or not method.rpartition("/")[2].startswith(("Get", "List")):
            continue
        with grpc.insecure_channel(addresses[service]) as channel:
            try:
                channel.unary_unary(method)(b"", timeout=60)
            except grpc.RpcError as error:
                if error.code().name in DENIED:
                    wrong.append((method, error.code(), error.details()))
    assert wrong == []


def test_only_that_user_may_read_the_token_and_it_is_nowhere_else(suite: Suite) -> None:
    file = token_file(suite.home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    secret = file.read_text().strip().rpartition(".")[2]
    places = [
        path
        for path, content in files_below(suite.home)
        if path != file
        and "pg" not in path.relative_to(suite.home).parts
        and secret.encode() in content
    ]
    assert places == []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert secret.encode() not in path.read_bytes()
        except OSError:
            continue


def test_commands_find_the_suite_by_its_home_and_say_who_is_let_in(suite: Suite) -> None:
    told = cli(suite.home, "status").stdout
    assert suite.address in told
    assert "the user who started it needs no token, all others do" in told
    checked = cli(suite.home, "doctor", "--json").stdout
    (callers,) = [
        each for each in map(json.loads, checked.splitlines()) if each["what"] == "callers"
    ]
    assert callers["state"] == "ok"
    assert cli(suite.home, "kits").returncode == 0


def test_work_is_done_without_anybody_showing_a_token(suite: Suite) -> None:
    with vistaflow.connect(suite.address) as client:
        design = client.generate_design("branin", doe_pb2.DesignSpec(size=8))
        assert client.wait(design.kit_id, timeout=120).status == "FINISHED"
        run = client.evaluate_design(design.job_id)
        assert client.wait(run.kit_id, timeout=120).status == "FINISHED"
        assert len(client.design_rows(run.job_id)) == 8


@as_root
def test_the_environment_may_open_it_to_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Stranger
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("VISTAFLOW_AUTH", "off")
    for suite in start_suite(home):
        method = "/vistaflow.api.registry.v1.RegistryService/ListKits"
        assert other.call(suite.address, method) == ("OK", "")
        assert "no caller needs a token" in cli(home, "status").stdout
