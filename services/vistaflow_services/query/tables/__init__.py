"""The tables that a query may name.

cache.py        files of buckets that stay for the next query
catalog.py      what a name means, with its version, its columns and its files
columns.py      the columns of files, with their types
conditions.py   what the WHERE of a query says of the columns of one table
history.py      the registry's log and jobs as tables
inputs.py       the files of tables on this machine
"""
