"""collect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.live import follow_to_end
from vistaflow.cli.output import FAILED, Address, AsJson, console, print_json, reported, stop
from vistaflow.errors import InvalidArgumentError
from vistaflow.models import Job

KEYS: Final = (
    *("name", "urls", "pages", "html", "json", "format"),
    *("max_pages", "max_page_bytes", "max_failed_share", "delay"),
)
MAX_FAILURES: Final = 5
"""Failed pages that are listed; the manifest has all."""


def collect(
    spec: Annotated[Path, typer.Argument(help="A YAML file.", metavar="SPEC.yaml")],
    address: Address = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="Copy the rows to this folder of this machine.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    as_json: AsJson = False,
) -> None:
    """Collect pages from the web and the rows in them, and follow it.

    Ctrl-C detaches: the collection goes on. For example:

    vistaflow collect whisky.yaml --to rows
    """
    # It imports a YAML library, which other commands need not wait for.
    from vistaflow.cli.data.import_file import ImportFile

    with reported():
        file = ImportFile(spec, KEYS)

    async def run(client: CommandClient) -> Job:
        try:
            job = await client.collect_pages(**file.arguments)
        except InvalidArgumentError as error:
            raise file.located(error) from None
        if detach:
            return job
        await follow_to_end(client, job.kit_id, quiet=as_json)
        job = await client.job(job.job_id)
        if to is not None and job.status == "FINISHED":
            await client.download_collection(job, to)
        return job

    job = answer_of(address, run)
    if as_json:
        print_json(job)
    elif detach:
        console.print(f"collection {job.job_id} is started, kit {job.kit_id}")
    if detach:
        return
    if job.status != "FINISHED":
        stop(f"collection {job.job_id} is {job.status}: {job.reason}", FAILED)
    if not as_json:
        console.print(_summary(job.result, to), markup=False, soft_wrap=True)


def _summary(result: Mapping[str, Any], to: Path | None) -> str:
    """What was collected, and which pages failed."""
    unchanged, failed = result.get("unchanged", 0), result.get("failed", 0)
    lines = [
        f"{result.get('rows', 0):,} rows of {result.get('pages', 0):,} pages, "
        f"{unchanged:,} of them unchanged, in {to or result.get('result_path', '')}"
    ]
    if result.get("limited"):
        lines.append("there are more pages than max_pages")
    if failed:
        lines.append(f"{failed:,} pages failed:")
    failures = list(result.get("failures") or ())[:MAX_FAILURES]
    lines += [f"  {failure.get('url')}: {failure.get('error')}" for failure in failures]
    return "\n".join(lines)
