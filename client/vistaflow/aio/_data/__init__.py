"""The methods for data: files, conversions, collections, datasets and SQL.

uploads.py         the methods that send files
conversions.py     the methods for conversions and summaries
collections.py     the methods that collect pages from the web
imports.py         the methods that make versions of datasets
import_specs.py    what an import is asked for, as messages
datasets.py        the methods that read and change datasets
record_batches.py  record batches of Arrow from a stream
queries.py         the methods for SQL
query_result.py    rows of a result, as they are needed
upkeep.py          the methods for backups, clean-ups and repairs
"""
