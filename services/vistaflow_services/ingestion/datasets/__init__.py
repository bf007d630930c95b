"""Datasets: imports, reads and erasure as requests and jobs, and the stores that hold them.

requests.py     requests, checked in the caller's name before anything is queued
table_specs.py  tables to import: messages as what the library takes
row_sources.py  what rows are read from: files, conversions, designs, queries
imports.py      the IMPORT job: a version from sources, or without forgotten rows
deliveries.py   the DELIVER job: an alias for a version that meets conditions, its tables as files
registrar.py    the registry as a job asks it
reads.py        rows as streams of bytes
stores.py       the stores of blobs, and what keeps them tidy
upkeep.py       keeps them tidy while ingestion serves
"""
