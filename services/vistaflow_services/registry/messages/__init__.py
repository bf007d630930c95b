"""Protos to commands and filters, and back.

requests.py   requests to commands; every mistake under its field
quick.py      the fast path of rows to append that are certainly valid
raw.py        checks of requests in wire form, before they are parsed
filters.py    filters, pages and moments of the past that requests ask for
narrowing.py  filters narrowed to the project of the caller
translate.py  domain values to messages, and back
encoding.py   a Struct to JSON text, and back to bytes
layouts.py    flat metadata to JSON text by the layout of earlier rows
numbers.py    whole numbers that may have been rounded
varint.py     numbers as protobuf writes them
"""
