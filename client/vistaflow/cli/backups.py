"""backup, restore, cleanup, repair, retention: looking after what is kept."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from vistaflow._machine.interpreter import module_command
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.live import follow
from vistaflow.cli.local import DEFAULT_HOME, Home, folder_of, holder
from vistaflow.cli.output import (
    FAILED,
    USAGE,
    Address,
    AsJson,
    console,
    print_json,
    size_text,
    stop,
)
from vistaflow.errors import KitFailedError
from vistaflow.models import Job


def backup(
    file: Annotated[
        Path | None, typer.Argument(help="The file to write; must not be there yet.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="A target that the operator declares, for datasets and artifacts, too; may be "
            "repeated.",
            metavar="TARGET",
        ),
    ] = None,
    keep: Annotated[int, typer.Option(help="With --to: how many backups a target keeps.")] = 3,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    home: Home = DEFAULT_HOME,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Save the registry's log and tables to a file, or everything to targets.

    For example: vistaflow backup --to disk --to s3://bucket/vistaflow
    """
    if (file is None) == (not to):
        stop("give a file or --to, and not both", USAGE)
    if file is not None:
        _run(home, "backup", str(file.expanduser().absolute()))
        return

    async def start(client: CommandClient) -> Job:
        return await client.back_up(*(to or ()), keep=keep)

    job = _followed(address, start, "backup", detach=detach, as_json=as_json)
    if job is not None:
        for name, done in job.result["targets"].items():
            console.print(
                f"{name}: backup {job.result['backup']} of {done['files']:,} files; "
                f"{size_text(done['sent_bytes'])} were new and are sent",
                markup=False,
                soft_wrap=True,
            )


def cleanup(
    days: Annotated[int, typer.Option(help="How old a thing is that is removed.")] = 7,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Remove what is no longer needed now, as the schedule weekly-cleanup does.

    For example: vistaflow cleanup --days 7
    """
    job = _followed(
        address,
        lambda client: client.clean_up(days=days),
        "clean-up",
        detach=detach,
        as_json=as_json,
    )
    for kind, removed in job.result["removed"].items() if job is not None else ():
        console.print(f"{kind:8} {removed['count']:>8,}  {size_text(removed['bytes'])}")


def repair(
    verify: Annotated[bool, typer.Option("--verify", help="Read every copy.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Restore copies of files that are missing or damaged in one of the stores.

    For example: vistaflow repair --verify
    """
    job = _followed(
        address,
        lambda client: client.repair_stores(verify=verify),
        "repair",
        detach=detach,
        as_json=as_json,
    )
    if job is not None:
        console.print(f"{job.result['restored']:,} copies are restored")


def _followed(
    address: str,
    start: Callable[[CommandClient], Awaitable[Job]],
    word: str,
    *,
    detach: bool,
    as_json: bool,
) -> Job | None:
    """The job that was started, once it has finished; None if its result is not to be printed."""

    async def run(client: CommandClient) -> Job:
        job = await start(client)
        if detach:
            return job
        if console.is_terminal and not as_json:
            await follow(client, job.kit_id)
        else:
            with contextlib.suppress(KitFailedError):
                await client.wait(job.kit_id)
        return await client.job(job.job_id)

    job = answer_of(address, run)
    if as_json:
        print_json(job)
    elif detach:
        console.print(f"{word} {job.job_id} is started, kit {job.kit_id}")
    if not detach and job.status != "FINISHED":
        stop(f"{word} {job.job_id} is {job.status}: {job.reason}", FAILED)
    return None if as_json or detach else job


def restore(
    file: Annotated[Path | None, typer.Argument(help="What `vistaflow backup` wrote.")] = None,
    source: Annotated[
        str, typer.Option("--from", help="In place of a file: a target.", metavar="TARGET")
    ] = "",
    backup_id: Annotated[
        str, typer.Option("--at", metavar="ID", help="With --from: a backup; else the newest.")
    ] = "",
    home: Home = DEFAULT_HOME,
    beyond: Annotated[
        int, typer.Option(help="The last revision the lost log is known to have used.", min=0)
    ] = 0,
    keep_tokens: Annotated[
        bool,
        typer.Option("--keep-tokens", help="Trust tokens that may have been revoked meanwhile."),
    ] = False,
) -> None:
    """Put a backup back. What is there is put aside. Everything must be down.

    For example: vistaflow restore --from s3://bucket/vistaflow
    """
    if (file is None) == (not source):
        stop("give a file or --from, and not both", USAGE)
    if holder(folder_of(home)) is not None:
        stop("vistaflow is up; stop it first: `vistaflow down`", FAILED)
    more = [
        *([f"--beyond={beyond}"] if beyond else []),
        *(["--keep-tokens"] if keep_tokens else []),
        *([f"--at={backup_id}"] if backup_id else []),
        str(file.expanduser().absolute()) if file is not None else f"--from={_url(source)}",
    ]
    _run(home, "restore", *more)


def _url(source: str) -> str:
    """A target as another process finds it: a path that is there becomes an absolute one."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.is_dir() and "://" not in source else source


def retention(
    home: Home = DEFAULT_HOME,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be dropped.")
    ] = False,
    days: Annotated[
        float, typer.Option(help="Keep what is over for so long, not as configured.", min=0)
    ] = 0.0,
) -> None:
    """Drop old partitions of the log that the policy does not keep."""
    more = [*(["--dry-run"] if dry_run else []), *([f"--days={days}"] if days else [])]
    _run(home, "retention", *more)


def _run(home: Path, command: str, *arguments: str) -> None:
    if importlib.util.find_spec("vistaflow_services") is None:
        stop("the services are not installed: pip install 'vistaflow\\[all]'", USAGE)
    done = subprocess.run(
        [*module_command(f"vistaflow_services.registry.{command}"), *arguments],
        env={
            **os.environ,
            "VISTAFLOW_HOME": str(folder_of(home)),
            "PYTHONIOENCODING": f"{sys.stdout.encoding or 'utf-8'}:backslashreplace",
        },
        # Told from here, so that a reader who stops reading, such as `head`, interrupts no work.
        stdout=subprocess.PIPE,
        encoding=sys.stdout.encoding or "utf-8",
        errors="replace",
        check=False,
    )
    sys.stdout.write(done.stdout)
    if done.returncode:
        raise typer.Exit(FAILED)
