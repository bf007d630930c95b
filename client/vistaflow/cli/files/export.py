"""export: a kit with all that it made, as a folder."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vistaflow._rows import guarded
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.cli.arguments import KitId
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.files.folders import check_new, new_folder
from vistaflow.cli.files.kit_text import kit_text, yaml_text
from vistaflow.cli.files.picture import SHOWN
from vistaflow.cli.output import Address, AsJson, console, plain, print_json, size_text
from vistaflow.cli.results import design_job, result_dict, study_of
from vistaflow.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    MissingPackageError,
    NotFoundError,
    invalid,
)
from vistaflow.models import Kit
from vistaflow.results import Trial

MANIFEST = "manifest.json"
"""Lists every other file of the folder with its size and SHA-256."""

SHEET_ROWS = 1_048_576
"""Rows of a sheet."""

CELL_CHARACTERS = 32_767
"""Longest text of a cell."""

_HIDDEN = ("pb", "parameters", "responses")


class Tables(StrEnum):
    """The format of tables."""

    CSV = "csv"
    PARQUET = "parquet"
    XLSX = "xlsx"


def export(
    kit: KitId,
    to: Annotated[Path, typer.Option("--to", help="The folder; it must not exist.")],
    address: Address = "",
    tables: Annotated[Tables, typer.Option(help="Of points and trials.")] = Tables.CSV,
    as_json: AsJson = False,
) -> None:
    """Copy a kit to a folder: kit.yaml, deck, points, trials, best point, model and pictures.

    `manifest.json` lists every file with its size and SHA-256. The folder appears once it is
    complete.

    For example: vistaflow export 7 --to amp; vistaflow export 7 --to amp --tables xlsx
    """
    check_new(to, "--to")

    async def ask(client: CommandClient) -> dict[str, Any]:
        return await exported(client, await client.kit(kit), to.absolute(), tables)

    manifest = answer_of(address, ask)
    if as_json:
        print_json(manifest)
        return
    for file in manifest["files"]:
        console.print(f"  {file['path']:<40} {size_text(file['bytes']):>10}", markup=False)
    console.print(f"kit {kit} is in {to}", markup=False, soft_wrap=True)


async def exported(
    client: CommandClient, kit: Kit, to: Path, tables: Tables = Tables.CSV
) -> dict[str, Any]:
    """Writes a kit to a folder, which appears once it is complete.

    Args:
        client: The client.
        kit: The kit with its jobs.
        to: The folder, an absolute path.
        tables: The format of its tables.

    Returns:
        The manifest.

    Raises:
        InvalidArgumentError: The folder cannot be written.
        VistaError: What the kit consists of cannot be read.
    """
    with new_folder(to, "to") as part:
        await _fill(client, kit, part, tables)
        manifest = {
            "kit_id": kit.kit_id,
            "name": kit.name,
            "status": kit.status,
            "revision": kit.revision,
            "deck": kit.spec.get("deck"),
            "files": _listed(part),
        }
        text = json.dumps(plain(manifest), indent=1, ensure_ascii=False)
        (part / MANIFEST).write_text(text + "\n", "utf-8")
    return manifest


async def _fill(client: CommandClient, kit: Kit, folder: Path, tables: Tables) -> None:
    finished = [job for job in kit.jobs if job.status == "FINISHED"]
    decks = [deck["deck_id"] for job in finished for deck in job.result.get("decks") or ()]
    with suppress(FailedPreconditionError):  # its jobs are from elsewhere
        beside = "./deck" if decks else ""
        (folder / "kit.yaml").write_text(kit_text(kit, beside), "utf-8")
    if decks:
        unpack(await client.deck_archive(decks[-1]), folder / "deck")
    job = design_job(kit)
    if job is not None and job.status == "FINISHED":
        write_table(await client.design_rows(job.job_id), folder / f"points.{tables}")
    study = await study_of(client, kit)
    model_ids = [job.job_id for job in finished if job.job_type == "ML_TRAIN"]
    if study is not None:
        rows = [_trial_row(trial) for trial in await client.trials(study.study_id)]
        write_table(rows, folder / f"trials.{tables}")
        (folder / "best.yaml").write_text(yaml_text(_best(kit, study)), "utf-8")
        model_ids += [study.model_id] if study.model_id else []
    if model_ids:
        model = await client.model(model_ids[-1])
        (folder / "model").mkdir()
        text = json.dumps(plain(model), indent=1, ensure_ascii=False)
        (folder / "model" / "model.json").write_text(text + "\n", "utf-8")
        for file in model.files:
            await client.download(file.uri, folder / "model" / Path(file.uri).name)
    for job in finished:
        for plot in job.result.get("plots") or ():
            (folder / "pictures").mkdir(exist_ok=True)
            name = f"{job.name}-{Path(str(plot['uri'])).name}".replace("/", "-")
            await client.download(str(plot["uri"]), folder / "pictures" / name)
    for name in SHOWN if job is not None else ():
        # Not enough points, models or parameters for it.
        with suppress(FailedPreconditionError, InvalidArgumentError, NotFoundError):
            content = await client.picture(kit.kit_id, name)
            (folder / "pictures").mkdir(exist_ok=True)
            (folder / "pictures" / f"{name}.png").write_bytes(content)


def _best(kit: Kit, study: optimize_pb2.Study) -> dict[str, Any]:
    """The best point for programs, with the units of its values."""
    result: dict[str, Any] = plain(result_dict(kit, study))
    return {**result, "units": dict(kit.spec.get("units") or {})}


def _trial_row(trial: Trial) -> dict[str, Any]:
    row = {
        field.name: getattr(trial, field.name)
        for field in fields(trial)
        if field.name not in _HIDDEN
    }
    number, origin = row.pop("number"), row.pop("origin")
    return {"number": number, "origin": origin, **trial.parameters, **trial.responses, **row}


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes rows as CSV, or as Parquet or XLSX if the file is called so.

    Raises:
        MissingPackageError: Parquet without pyarrow, or XLSX without XlsxWriter.
        InvalidArgumentError: There are more rows than a sheet has.
    """
    # Failed rows have no responses.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingPackageError(
                "Parquet needs pyarrow: pip install 'vistaflow[arrow]'", reason="PYARROW_MISSING"
            ) from None
        cells = {name: [row.get(name) for row in rows] for name in columns}
        parquet.write_table(pyarrow.table(cells), path, compression="zstd")
        return
    if path.suffix == ".xlsx":
        _write_sheet(rows, columns, path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(guarded, columns))
        writer.writerows([guarded(row.get(name)) for name in columns] for row in rows)


def _write_sheet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Writes rows as a workbook of one sheet; no text of it is a formula or a link."""
    try:
        import xlsxwriter
    except ImportError:
        raise MissingPackageError(
            "XLSX needs XlsxWriter: pip install 'vistaflow[xlsx]'", reason="XLSXWRITER_MISSING"
        ) from None
    if len(rows) >= SHEET_ROWS:
        most = f"a sheet has room for {SHEET_ROWS - 1:,} rows; {path.stem} has {len(rows):,}"
        raise invalid("tables", f"{most}: take csv or parquet")
    with xlsxwriter.Workbook(path, {"constant_memory": True}) as book:
        sheet = book.add_worksheet(path.stem)
        sheet.freeze_panes(1, 0)
        for place, name in enumerate(columns):
            sheet.write_string(0, place, name)
        for number, row in enumerate(rows, start=1):
            for place, name in enumerate(columns):
                value = row.get(name)
                if isinstance(value, bool):
                    sheet.write_boolean(number, place, value)
                elif isinstance(value, int | float) and math.isfinite(value):
                    sheet.write_number(number, place, value)
                elif value is not None:
                    # As text, whatever it begins with.
                    sheet.write_string(number, place, str(value)[:CELL_CHARACTERS])


def unpack(archive: bytes, folder: Path) -> None:
    """Writes the files of a deck's archive.

    Raises:
        InvalidArgumentError: A file of it lies outside of the folder.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        for name in files.namelist():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise invalid("deck", f"{name!r} lies outside of the deck")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files.read(name))


def _listed(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
