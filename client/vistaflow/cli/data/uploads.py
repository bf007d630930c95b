"""upload, and the bar of files on their way."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.output import Address, AsJson, console, errors, print_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class UploadBar:
    """Shows on stderr how much of each file is sent; on a terminal only."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, file: str, sent: int, size: int) -> None:
        """Shows how far a file is."""
        if not errors.is_terminal:
            return
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
        if file not in self._tasks:
            self._tasks[file] = self._bar.add_task(Path(file).name, total=size)
        self._bar.update(self._tasks[file], completed=sent)


def _bar() -> Progress:
    # Most commands send nothing, and this takes long to import.
    from rich import progress

    return progress.Progress(
        progress.TextColumn("upload {task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=errors,
    )


def upload(
    file: Annotated[Path, typer.Argument(help="A file of this machine.", metavar="FILE")],
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Send a file to the services and print its name for other commands: `upload:ID`.

    A call that broke off goes on where it ended when it is made again. For example:

    vistaflow upload ./users.json
    """

    async def run(client: CommandClient) -> ingestion_pb2.Upload:
        with UploadBar() as bar:
            upload_id = await client.upload(file, progress=functools.partial(bar, str(file)))
        return await client.get_upload(upload_id)

    answer = answer_of(address, run)
    if as_json:
        print_json(answer)
    else:
        console.print(f"upload:{answer.upload_id}")
