"""Every service has the same files with the same names, and a map of them that is true."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vistaflow
import vistaflow_services
from vistaflow_services.suite.__main__ import SERVICES

PACKAGES = Path(vistaflow_services.__file__).parent
SHIPPED = PACKAGES / "decks" / "shipped"
MAPPED = sorted(
    ".".join(file.parent.relative_to(PACKAGES).parts)
    for file in PACKAGES.rglob("__init__.py")
    if file.parent != PACKAGES and SHIPPED not in file.parents
)
"""Every package and every wing of one."""
CLIENT = Path(vistaflow.__file__).parent
CLIENT_FOLDERS = sorted(
    file.parent for file in CLIENT.rglob("__init__.py") if CLIENT / "api" not in file.parents
)
"""The folders of the client, without the generated code."""
FILE = re.compile(r"(?<![\w.])[a-z_]+\.py\b")
MOST_MODULES = 16
"""Modules of one folder: as many as a newcomer reads through to find one."""


def files(package: str) -> set[str]:
    folder = PACKAGES.joinpath(*package.split("."))
    return {file.name for file in folder.glob("*.py")} - {"__init__.py"}


def map_of(package: str) -> str:
    return importlib.import_module(f"vistaflow_services.{package}").__doc__ or ""


def test_every_service_of_the_suite_is_a_package() -> None:
    assert set(SERVICES) <= set(MAPPED)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_files_that_all_have(service: str) -> None:
    # The rules of these are those of libraries (decks, designs), of SQL and of the other services.
    domain = set() if service in ("ingestion", "doe", "query", "gateway") else {"domain.py"}
    serving = "application.py" if service == "gateway" else "servicer.py"

    assert {"__main__.py", "config.py", serving} | domain <= files(service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_runs_jobs_has_them_in_one_module(service: str) -> None:
    entry = importlib.import_module(f"vistaflow_services.{service}.__main__")
    stage = getattr(entry, "SERVICE", None)
    runs_jobs = stage is not None and bool(stage.job_types)

    assert runs_jobs == ("jobs.py" in files(service))
    if stage is not None and runs_jobs:
        assert stage.jobs_module == f"vistaflow_services.{service}.jobs"
        assert set(importlib.import_module(stage.jobs_module).JOBS) == set(stage.job_types)


def test_only_attempts_import_what_they_compute_with() -> None:
    program = (
        "import importlib, sys\n"
        "for service in ('doe', 'ml', 'optimize'):\n"
        "    importlib.import_module(f'vistaflow_services.{service}.__main__')\n"
        "scipy = {f'scipy.{part}' for part in ('linalg', 'optimize', 'special', 'stats')}\n"
        "print(*sorted((scipy | {'sklearn', 'matplotlib', 'optuna'}) & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "\n"), ran.stderr


def test_models_compute_on_one_thread_although_libraries_are_loaded_late() -> None:
    program = (
        "from threadpoolctl import threadpool_info\n"
        "from vistaflow_services.ml import servicer\n"
        "servicer.open_model = lambda *_: None\n"
        "servicer._opened(None, None)\n"
        "import scipy.linalg, scipy.special\n"
        "print({pool['num_threads'] for pool in threadpool_info()})\n"
        "import vistaflow_services.ml.jobs\n"
        "known = len(threadpool_info())\n"
        "import scipy.optimize, scipy.special, scipy.linalg.lapack\n"
        "print(len(threadpool_info()) - known)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout.split()) == (0, ["{1}", "0"]), ran.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_built_apart_from_being_run(service: str) -> None:
    entry = importlib.import_module(f"vistaflow_services.{service}.__main__")

    assert callable(entry.build)
    assert callable(entry.main)


@pytest.mark.parametrize("package", MAPPED)
def test_the_map_of_a_package_names_every_module_and_no_other(package: str) -> None:
    assert set(FILE.findall(map_of(package))) == files(package)


@pytest.mark.parametrize("package", MAPPED)
def test_the_map_of_a_package_names_its_wings(package: str) -> None:
    wings = {name.removeprefix(f"{package}.") for name in MAPPED if name.startswith(f"{package}.")}

    assert {wing for wing in wings if f"{wing}/" not in map_of(package)} == set()


@pytest.mark.parametrize("package", MAPPED)
def test_no_folder_has_more_modules_than_a_newcomer_reads_through(package: str) -> None:
    assert len(files(package)) <= MOST_MODULES


@pytest.mark.parametrize("package", [name for name in MAPPED if "." not in name])
def test_only_the_registry_has_a_store(package: str) -> None:
    assert ("sql" in {each.name for each in (PACKAGES / package).iterdir()}) == (
        package == "registry"
    )


@pytest.mark.parametrize("folder", CLIENT_FOLDERS, ids=lambda folder: folder.name)
def test_the_map_of_a_folder_of_the_client_is_true(folder: Path) -> None:
    parts = folder.relative_to(CLIENT.parent).parts
    names = importlib.import_module(".".join(parts)).__doc__ or ""
    modules = {file.name for file in folder.glob("*.py")} - {"__init__.py"}
    folders = {file.parent.name for file in folder.glob("*/__init__.py")}

    assert set(FILE.findall(names)) == modules
    assert {name for name in folders if f"{name}/" not in names} == set()
    assert len(modules) <= MOST_MODULES


def test_private_modules_of_the_client_are_named_so() -> None:
    public = {"aio", "api", "cli", "client", "errors", "models", "results"}
    names = {path.stem for path in CLIENT.iterdir() if path.suffix in ("", ".py")}

    assert {name for name in names if not name.startswith("_")} == public
