"""Backups of a whole installation in folders and S3 buckets.

    TARGET/cas/ab/<sha256>            the dump of the log, files of datasets, artifacts
    TARGET/backups/ID.<sha256>.json   what a backup consists of; written last

targets.py    a place for backups, and the places that the operator declares
manifest.py   what a backup consists of
writing.py    saves what a target has not got yet, and removes old backups
restoring.py  checks a backup, and puts its files back
"""
