"""What runs a query.

contract.py       what every engine does, and the values it takes and returns: begin here
duckdb_engine.py  DuckDB in one confined process a query
child.py          that process
confinement.py    what that process may still do
forking.py        a process that starts that process for a service
trino_engine.py   a Trino server through its official client
hive.py           datasets as tables of Trino
trino_values.py   Trino's types and values as Arrow has them
parts.py          record batches to Parquet part files
"""
