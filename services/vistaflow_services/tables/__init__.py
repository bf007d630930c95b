"""JSON of any size to tables: CSV and Parquet in parts, in bounded memory, exact.

conversion.py   options and results
sources.py      inputs: opened by the caller, decrypted, decompressed
pieces.py       cut into pieces of whole records
brackets.py     records and pairs of characters found without parsing
memory.py       files in memory, for pieces and columns
literals.py     JSON values without losing a digit, and their text
shape.py        which tables and columns there are
engines/        pieces to columns, by Python, DuckDB or chDB
formulas.py     cells that a spreadsheet would run
parts.py        rows to the unfinished parts
publication.py  the parts in their final form, and the manifest
journal.py      what is needed to go on after a kill
run.py          all of it, from inputs to the manifest
shopping.py     months and categories of a user's purchases
"""

from __future__ import annotations
