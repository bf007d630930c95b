"""Ingestion: decks in, checked and kept.

jobs.py        the job that collects decks
translate.py   between the protos and the decks
servicer.py    the gRPC service
config.py      settings, from VISTAFLOW_INGESTION_* variables
__main__.py    puts them together and serves
"""
