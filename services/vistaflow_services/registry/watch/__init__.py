"""Streams to watchers.

service.py   WatchStates
many.py      WatchMany: several watches on one stream
rows.py      which rows a watch receives, and which are merged into later ones
snapshot.py  the current rows with which a watch may begin
store.py     what is read from the database for watches
encode.py    messages as bytes, encoded once for all watchers
"""
