"""convert."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.data.uploads import UploadBar
from vistaflow.cli.live import follow_to_end
from vistaflow.cli.output import FAILED, USAGE, Address, AsJson, console, print_json, stop


class TableFormat(StrEnum):
    """The files that a conversion writes."""

    CSV = "csv"
    PARQUET = "parquet"
    BOTH = "both"


class Compression(StrEnum):
    """How CSV is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Engine(StrEnum):
    """What reads the records."""

    AUTO = "auto"
    DUCKDB = "duckdb"
    TEXT = "text"
    PYTHON = "python"


ENDINGS: Final = (".json", ".ndjson", ".jsonl", ".gz", ".zst", ".aes", ".enc")
MAX_TABLE_ROWS: Final = 20
"""Tables that are listed on a terminal; `--json` has all."""


def convert(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Files in the service's data roots, ROOT/PATH, or of this machine; or a job that "
            "collected pages.",
            metavar="FILE…",
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            "-n", "--name", help="First part of the output's names; that of a single file."
        ),
    ] = "",
    address: Address = "",
    merge: Annotated[bool, typer.Option("--merge", help="One sequence of parts for all.")] = False,
    pages: Annotated[
        bool, typer.Option("--pages", help="Read the job's pages as they are, not its rows.")
    ] = False,
    format_: Annotated[
        TableFormat, typer.Option("--format", help="What to write.")
    ] = TableFormat.CSV,
    compression: Annotated[
        Compression, typer.Option(help="How CSV is compressed.")
    ] = Compression.NONE,
    max_rows: Annotated[
        int, typer.Option(help="Rows of a full part; 0: as the service has it.", min=0)
    ] = 0,
    chunk: Annotated[
        int,
        typer.Option(
            help="Most records at once, against large memory; 0: as the service has it.", min=0
        ),
    ] = 0,
    delimiter: Annotated[str, typer.Option(help="Between cells: , ; | or a tab.")] = "",
    bom: Annotated[bool, typer.Option("--bom", help="Let Excel know that it is UTF-8.")] = False,
    formula_guard: Annotated[
        bool, typer.Option(help="Make cells harmless that a spreadsheet would run.")
    ] = True,
    map_path: Annotated[
        list[str] | None, typer.Option(help="An object whose keys are ids.", metavar="PATH")
    ] = None,
    key_ref: Annotated[str, typer.Option(help="The operator's key for encrypted files.")] = "",
    key_file: Annotated[
        Path | None,
        typer.Option(help="A file with the AES-256 key and the vector in hex, one a line."),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="What reads the records.")] = Engine.AUTO,
    output: Annotated[
        str, typer.Option(help="A folder of a data root or bucket: ROOT/FOLDER.")
    ] = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="Copy the files to this folder of this machine.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert JSON files of any size, encrypted or not, to CSV or Parquet, and follow it.

    Files of this machine that the service does not see are sent to it first; `./FILE` is always
    one. Ctrl-C detaches: the conversion goes on. For example:

    vistaflow convert ./users.json --to tables

    vistaflow convert raw/users.json --name users --max-rows 100000
    """
    key, vector = _key(key_file) if key_file else ("", "")
    name = name or _name(files)

    async def run(client: CommandClient) -> ingestion_pb2.GetConversionResponse:
        with UploadBar() as bar:
            job = await client.convert(
                files[0] if len(files) == 1 else files,
                name,
                pages=pages,
                merge=merge,
                format=f"TABLE_FORMAT_{format_.upper()}",
                compression=f"CSV_COMPRESSION_{compression.upper()}",
                max_csv_rows=max_rows,
                file_sep_size=chunk,
                delimiter="\t" if delimiter == "\\t" else delimiter,
                byte_order_mark=bom,
                formula_guard=formula_guard,
                map_paths=map_path or [],
                key_ref=key_ref,
                aes256cbckey=key,
                iv=vector,
                engine=f"JSON_ENGINE_{'UNSPECIFIED' if engine is Engine.AUTO else engine.upper()}",
                output=output,
                download=to is not None and not detach,
                on_upload=bar,
            )
        if not detach:
            await follow_to_end(client, job.kit_id, quiet=as_json)
        answer = await client.conversion(job.job_id)
        if to is not None and not detach and answer.status == "DONE":
            await client.download_conversion(job, to)
        return answer

    answer = answer_of(address, run)
    if as_json:
        print_json(answer)
    elif detach:
        console.print(f"conversion {answer.job.job_id} is started, kit {answer.job.kit_id}")
    if answer.status == "FAILED":
        stop(f"conversion {answer.job.job_id}: {answer.msg}", FAILED)
    if detach or answer.status != "DONE":
        return
    if not as_json:
        _show(answer, to)


def _name(files: list[str]) -> str:
    """The name of a single file, without the ending of its format."""
    name = files[0].rpartition("/")[2]
    if len(files) > 1 or files[0].startswith("upload:"):
        stop("--name: say what the output is called, as by --name users", USAGE)
    while (stem := Path(name).stem) and Path(name).suffix.lower() in ENDINGS:
        name = stem
    return name


def _key(file: Path) -> tuple[str, str]:
    """The key and the vector of a file."""
    try:
        words = file.read_text("ascii").split()
    except (OSError, UnicodeError):
        stop(f"--key-file: {file} cannot be read", USAGE)
    if len(words) != 2:
        stop("--key-file: the file must have two lines: the key and the vector, in hex", USAGE)
    return words[0], words[1]


def _show(answer: ingestion_pb2.GetConversionResponse, to: Path | None) -> None:
    """Prints what was written."""
    table = Table(box=None)
    for heading in ("table", "rows", "columns", "files"):
        table.add_column(heading, justify="left" if heading == "table" else "right")
    for entry in answer.tables[:MAX_TABLE_ROWS]:
        table.add_row(
            entry.table or "(records)", f"{entry.rows:,}", str(len(entry.columns)), str(entry.files)
        )
    console.print(table)
    if len(answer.tables) > MAX_TABLE_ROWS:
        console.print(f"… and {len(answer.tables) - MAX_TABLE_ROWS} more tables")
    size = sum(file.size_bytes for file in answer.files)
    console.print(
        f"{answer.records:,} records, {len(answer.files):,} files, {size:,} bytes in "
        f"{to or answer.output}",
        markup=False,
        soft_wrap=True,
    )
