"""The settings that docs/operations.md tells are those that the services read, and no others."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vistaflow._machine import settings
from vistaflow._rpc import credentials
from vistaflow_services.core import config as core
from vistaflow_services.core.door import interceptor
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.rpc import tls
from vistaflow_services.core.server.shell import ALLOW_INSECURE
from vistaflow_services.core.stage import StageConfig
from vistaflow_services.registry.access import issuer
from vistaflow_services.simulators.bridges import registered
from vistaflow_services.stores import opening, roots
from vistaflow_services.suite.__main__ import DEFAULT_PORT, SERVICES

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(VISTAFLOW_[A-Z_<>]+)` \| (.+?) \| .+ \|$", re.MULTILINE)
NAME = re.compile(r"\bVISTAFLOW_[A-Z_]*[A-Z]\b")
STAGES = SERVICES[1:-1]

SAID = {
    "none": ("", (), None),
    "embedded": ("",),
    "as `LISTEN`": ("",),
    "asks the registry": ("",),
    "service and host": ("",),
    "its share": (0,),
    "no limit": (0,),
}
"""Words of the table, and what they stand for in a service's configuration."""


def configs() -> dict[str, type[Any]]:
    modules = {each: f"vistaflow_services.{each}.config" for each in SERVICES}
    return {name: importlib.import_module(module).Config for name, module in modules.items()}


def defaults() -> dict[str, Any]:
    """Every variable that is read, with its default."""
    found: dict[str, Any] = {
        "VISTAFLOW_HOME": core.home({}),
        "VISTAFLOW_REGISTRY": core.registry_address({}),
        "VISTAFLOW_PORT": DEFAULT_PORT,
        ALLOW_INSECURE: False,
        interceptor.AUTH: "off",
        interceptor.RATE: 0,
        interceptor.STREAMS: 0,
        interceptor.REFUSALS: interceptor.DoorSettings().refusals_per_second,
        **dict.fromkeys((tls.CERT, tls.KEY, tls.CLIENT_CA), ""),
        **dict.fromkeys((credentials.CA, credentials.CLIENT_CERT, credentials.CLIENT_KEY), ""),
        credentials.TOKEN: "",
        **{f"{issuer.PREFIX}{name}": "" for name in ("ISSUER", "AUDIENCE", "ROLES")},
        roots.VARIABLE: "",
        opening.VARIABLE: core.stores({}),
        "VISTAFLOW_COPIES": core.copies({}),
        "VISTAFLOW_WEBHOOK_HOSTS": core.webhook_hosts({}),
        "VISTAFLOW_OPENLINEAGE_URL": core.openlineage_url({}),
        "VISTAFLOW_OPENLINEAGE_API_KEY": "",
        "VISTAFLOW_PUBLIC_URL": core.public_url({}),
        "VISTAFLOW_BACKUPS": core.backups({}),
        registered.PROGRAMS: "",
        registered.SERVERS: "",
        registered.MODELS: "",
    }
    for name, kind in configs().items():
        made = kind()
        for field in dataclasses.fields(kind):
            found[f"VISTAFLOW_{name.upper()}_{field.name.upper()}"] = getattr(made, field.name)
    return found


def documented() -> dict[str, str]:
    """Every variable of the tables, with the text of its default."""
    rows = ROW.findall((ROOT / "docs" / "operations.md").read_text())
    names = [name for name, _ in rows]
    assert len(set(names)) == len(names)
    told: dict[str, str] = {}
    for name, text in sorted(rows, key=lambda row: "<" not in row[0]):  # the special ones win
        if "<SERVICE>" in name:
            for port, service in enumerate(SERVICES, start=50051):
                listen = text.replace("50051` to `50057", str(port))
                told[name.replace("<SERVICE>", service.upper())] = listen
        elif "<STAGE>" in name:
            told |= {name.replace("<STAGE>", each.upper()): text for each in STAGES}
        else:
            told[name] = text
    return told


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    assert sorted(documented()) == sorted(defaults())


@pytest.mark.parametrize(("name", "default"), defaults().items(), ids=list(defaults()))
def test_the_default_is_the_documented_one(name: str, default: Any) -> None:
    text = documented()[name]
    if text in SAID:
        assert default in SAID[text]
    elif text == "`VISTAFLOW_HOME`":
        assert default == core.home()
    elif isinstance(default, Path):
        assert default == Path(text.strip("`")).expanduser()
    else:
        assert text == f"`{_plain(default)}`"


def _plain(value: Any) -> str:
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if whole else str(value)


def test_a_setting_counts_as_misspelt_unless_it_is_documented() -> None:
    own = tuple(f"VISTAFLOW_{service.upper()}_" for service in SERVICES)
    assert {name for name in documented() if not name.startswith(own)} == settings.SHARED
    assert [service.upper() for service in SERVICES] == list(settings.SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_a_misspelt_setting_is_refused_by_each_service(service: str) -> None:
    kind, prefix = configs()[service], f"VISTAFLOW_{service.upper()}_"
    wrong = {"VISTAFLOW_HOM": "/data", f"{prefix}LISTN": "127.0.0.1:0", "VISTAFLOW_TLS_CRT": "x"}
    with pytest.raises(InvalidError) as caught:
        core.read_config(kind, prefix, {**wrong, "VISTAFLOW_REGISTRY": "127.0.0.1:50051"})
    assert {mistake.field for mistake in caught.value.violations} == set(wrong)


def test_every_stage_service_can_be_told_the_same() -> None:
    assert {name for name, kind in configs().items() if issubclass(kind, StageConfig)} == set(
        STAGES
    )


@pytest.mark.parametrize("folder", ["client", "services"])
def test_no_variable_is_read_that_nobody_documented(folder: str) -> None:
    named = {
        name
        for path in (ROOT / folder).rglob("*.py")
        for name in NAME.findall(path.read_text())
        if not name.startswith(settings.OTHERS) and name not in settings.COMPOSE
    }
    prefixes = {f"VISTAFLOW_{each.upper()}" for each in SERVICES}

    assert named - prefixes <= set(documented())


@pytest.mark.parametrize("path", ["docker-compose.yml", "Dockerfile", "examples/demo.sh"])
def test_what_ships_sets_only_what_is_read(path: str) -> None:
    assert set(NAME.findall((ROOT / path).read_text())) <= (
        set(documented()) | set(settings.OTHERS) | settings.COMPOSE
    )


def test_a_container_gets_the_settings_that_all_of_its_kind_share() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in (f"{issuer.PREFIX}{each}" for each in ("ISSUER", "AUDIENCE", "ROLES")):
        assert compose["registry"]["environment"][name] == f"${{{name}:-}}"
