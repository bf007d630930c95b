"""Versioned tables of rows that can be trusted: keys, rules, profiles, erasure; Parquet blobs.

manifest.py      versions and what they consist of, as dataclasses and as JSON: begin here
engine.py        DuckDB, confined to its files, its memory and its disk
expressions.py   the SQL expressions that callers may write
quality.py       low-quality rules and deduplication, as SQL
sources.py       CSV, Parquet, JSON and Arrow as rows with types
build.py         sources to a manifest: accepted rows, rejects, report
profile.py       nulls, distinct values, ranges and histograms
parts.py         Parquet files to blobs, and blobs to Parquet files
reader.py        rows of a version as record batches
erasure.py       a version without a person's rows, and the blobs to purge
"""
