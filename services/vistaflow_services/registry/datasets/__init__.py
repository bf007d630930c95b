"""Which datasets there are: their versions, aliases, limits and the files they refer to.

The rows of datasets are files in stores, which the registry never opens: a service that has stored
them records a version here. Not part of the log: a dataset changes in a transaction of its own.

service.py   the gRPC service
messages.py  protos to values and back
records.py   datasets and versions as values
store.py     datasets in the database: what is read, and each change as a transaction
versions.py  the steps of these transactions: find, record, delete, expire
"""
