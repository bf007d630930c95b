"""Every service has the same files with the same names, and a map of them that is true."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import vistaflow_services
from vistaflow_services.suite.__main__ import SERVICES

PACKAGES = Path(vistaflow_services.__file__).parent
MAPPED = sorted(
    each.name
    for each in PACKAGES.iterdir()
    if (each / "__init__.py").exists() and any(each.glob("[!_]*.py"))
)
FILE = re.compile(r"\b[a-z_]+\.py\b")


def files(package: str) -> set[str]:
    return {each.name for each in (PACKAGES / package).glob("*.py")} - {"__init__.py"}


def map_of(package: str) -> str:
    return importlib.import_module(f"vistaflow_services.{package}").__doc__ or ""


def test_every_service_of_the_suite_is_a_package() -> None:
    assert set(SERVICES) <= set(MAPPED)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_files_that_all_have(service: str) -> None:
    # The rules of ingestion are those of decks: it has no domain of its own.
    domain = set() if service == "ingestion" else {"domain.py"}

    assert {"__main__.py", "config.py", "servicer.py"} | domain <= files(service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_runs_jobs_has_them_in_one_module(service: str) -> None:
    entry = importlib.import_module(f"vistaflow_services.{service}.__main__")
    stage = getattr(entry, "SERVICE", None)
    runs_jobs = stage is not None and bool(stage.job_types)

    assert runs_jobs == ("jobs.py" in files(service))
    if stage is not None and runs_jobs:
        assert stage.jobs_module == f"vistaflow_services.{service}.jobs"
        assert set(importlib.import_module(stage.jobs_module).JOBS) == set(stage.job_types)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_built_apart_from_being_run(service: str) -> None:
    entry = importlib.import_module(f"vistaflow_services.{service}.__main__")

    assert callable(entry.build)
    assert callable(entry.main)


@pytest.mark.parametrize("package", MAPPED)
def test_the_map_of_a_package_names_every_module_and_no_other(package: str) -> None:
    assert set(FILE.findall(map_of(package))) == files(package)


@pytest.mark.parametrize("package", MAPPED)
def test_only_the_registry_has_a_store(package: str) -> None:
    assert ("sql" in {each.name for each in (PACKAGES / package).iterdir()}) == (
        package == "registry"
    )
