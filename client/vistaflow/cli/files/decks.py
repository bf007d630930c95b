"""new deck, decks --export: the files of a deck in a folder."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from vistaflow.cli.connection import answer_of
from vistaflow.cli.files.export import unpack
from vistaflow.cli.files.folders import check_new, new_folder
from vistaflow.cli.output import USAGE, console, print_json, reported, stop

app = typer.Typer(help="Write the files of a new deck.", no_args_is_help=True)


@app.callback()
def options() -> None:
    """Write the files of a new deck."""


def simulators(incomplete: str = "") -> list[str]:
    """The simulators that there are templates for."""
    names = (folder.name for folder in _templates().iterdir() if folder.is_dir())
    return sorted(name for name in names if name.startswith(incomplete))


@app.command("deck")
def deck(
    simulator: Annotated[
        str, typer.Argument(help="Such as ngspice or python.", autocompletion=simulators)
    ],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Write a small deck that works and a kit.yaml for it, to begin with.

    For example: vistaflow new deck ngspice ./amp; vistaflow run amp/kit.yaml
    """
    if simulator not in simulators():
        stop(f"SIMULATOR: {simulator!r} is none of {', '.join(simulators())}", USAGE)
    check_new(folder, "FOLDER")
    name = "".join(
        letter if letter.isascii() and letter.isalnum() else "_"
        for letter in folder.absolute().name.lower()
    )
    name = name if name[:1].isalpha() else f"deck_{name}"

    with reported(), new_folder(folder, "folder") as part:
        for file in (_templates() / simulator).iterdir():
            text = file.read_text("utf-8").replace("DECK_NAME", name)
            (part / file.name).write_text(text, "utf-8")
    written = _paths(folder)
    for path in written:
        console.print(f"  {folder / path}", markup=False, soft_wrap=True)
    console.print(
        f"look at one point: vistaflow try {shown(folder)}\n"
        f"optimise it: vistaflow run {folder / 'kit.yaml'}",
        markup=False,
        soft_wrap=True,
    )


def export_deck(address: str, name: str, folder: Path, *, as_json: bool) -> None:
    """Copies a deck of the suite to a new folder."""
    if not name:
        stop("DECK: say which deck, such as `vistaflow decks opamp --export ./amp`", USAGE)
    check_new(folder, "--export")
    archive = answer_of(address, lambda client: client.deck_archive(name))
    with reported(), new_folder(folder, "folder") as part:
        unpack(archive, part)
    written = _paths(folder)
    if as_json:
        print_json({"folder": str(folder), "files": written})
        return
    for path in written:
        console.print(f"  {folder / path}", markup=False, soft_wrap=True)


def shown(folder: Path) -> str:
    """A folder as commands take it: a name without a slash would be that of a known deck."""
    text = str(folder)
    return text if "/" in text else f"./{text}"


def _templates() -> Traversable:
    return files("vistaflow.cli.files") / "templates"


def _paths(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
