"""SQL over datasets, files, results of kits and the log, on DuckDB and on Trino.

statement.py         a query's text as a checked tree: its tables, its limits, what it depends on
tokens.py            the words of a text before they are a tree
parameters.py        named parameters with types, bound as literals
functions.py         functions that are refused, and functions whose answer changes
conversion.py        the tree in the dialect of the engine that runs it
duckdb_functions.py  Trino's functions in DuckDB's SQL, with the macros of `trino_macros.sql`
lineage.py           which columns of which tables a result's columns come from
mistakes.py          errors of a query, with line, column and the nearest names
engines/             what runs a query
tables/              what the names of tables mean, and their files
submission.py        a request as a query that can run, and as a signed spec
jobs.py              the job: from recorded tables to a stored result
results/             pages of stored results in every format, and how long they are kept
messages.py          jobs as messages
servicer.py          the gRPC service
config.py            settings, from VISTAFLOW_QUERY_* variables
__main__.py          builds the service and runs it
"""
