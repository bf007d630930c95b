"""picture: a picture of a kit as a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from vistaflow.cli.arguments import KitId
from vistaflow.cli.connection import answer_of
from vistaflow.cli.output import USAGE, Address, AsJson, console, print_json, stop

SHOWN: Final = {
    "effects": "main effect of each parameter by the model, with its 95 % band",
    "slices": "the model along each parameter through the best point",
    "contours": "the model over two parameters",
    "parallel": "a line for each point over all parameters and responses",
    "importance": "how much each parameter matters, by the model",
    "correlation": "rank correlations of parameters and responses",
    "timeline": "when the jobs ran",
}
"""What each picture shows."""


class Format(StrEnum):
    """Of the file."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


def _names(incomplete: str) -> list[str]:
    return [name for name in SHOWN if name.startswith(incomplete)]


def picture(
    kit: KitId,
    name: Annotated[
        str,
        typer.Argument(help="Which; all of them are listed if left out.", autocompletion=_names),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; kit-KIT-NAME.png if unset.")
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="That of the file's name if unset.")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="Show this one; may be repeated.", metavar="NAME"),
    ] = None,
    response: Annotated[
        str, typer.Option("--response", help="Show this one only.", metavar="NAME")
    ] = "",
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Draw a picture of a kit, such as effects or contours; without NAME list what there is.

    For example: vistaflow picture 7 effects; vistaflow picture 7 contours --parameter w1
    --parameter w2 -o w.pdf
    """
    if not name:
        for known, shows in SHOWN.items():
            if as_json:
                print_json({"name": known, "shows": shows})
            else:
                console.print(f"  {known:<12} {shows}", markup=False)
        return
    suffix = output.suffix.removeprefix(".").lower() if output else ""
    known_suffix = Format(suffix) if suffix in set(Format) else None
    file_format = format_ or known_suffix or Format.PNG
    path = output or Path(f"kit-{kit}-{name}.{file_format}")
    content = answer_of(
        address,
        lambda client: client.picture(
            kit, name, format=file_format, parameters=parameter or (), response=response
        ),
    )
    try:
        path.write_bytes(content)
    except OSError as error:
        stop(f"{path} cannot be written: {error.strerror}; name another file with -o", USAGE)
    if as_json:
        print_json({"kit_id": kit, "path": str(path.absolute()), "bytes": len(content)})
    else:
        console.print(f"{name} of kit {kit} is in {path}", markup=False, soft_wrap=True)
