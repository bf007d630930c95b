"""Ingestion: decks in, checked and stored; files in, JSON files to tables.

jobs.py         what its jobs do: collect decks, convert, import, collect pages
translate.py    between the protos and the decks, and the uploads
conversions.py  between the protos and the library `tables`; outputs
buckets.py      outputs of conversions in buckets
inputs.py       the files that callers name: in data roots, or uploaded
uploads.py      uploaded files on disk, with quota and expiry
reception.py    the messages of UploadFile
keys.py         keys of encrypted inputs: sealed, or kept by the operator
page_sources.py what collections gathered, as inputs of conversions
collection.py   requests for pages of the web, and the job that collects them
shopping.py     SummarizeShopping, in a process of its own
servicer.py     the gRPC service
config.py       settings, from VISTAFLOW_INGESTION_* variables
datasets/       imports, reads and erasure of datasets, and the stores that hold them
upkeep/         backups, clean-up and repair as jobs
repair.py       purges, repairs and sweeps the stores, for the operator
__main__.py     builds the service and runs it
"""
