"""The commands of `vistaflow dataset`, some of which have modules of their own."""

from __future__ import annotations

from vistaflow.cli.data import imports, lineage, rows
from vistaflow.cli.data.datasets import app

app.command(name="read")(rows.read)
app.command(name="import")(imports.import_)
app.command(name="lineage")(lineage.lineage)
