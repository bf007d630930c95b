"""Calls over gRPC: what the clients and the services share.

channel.py      channels, deadlines, repeated calls with one request id
credentials.py  TLS, and the token of each call
replicas.py     several registries behind one list of addresses
paging.py       answers that take several messages
messages.py     requests of a caller's values
structs.py      Python values as protobuf Structs
unreachable.py  messages for connections that fail
forks.py        processes forked from one that used gRPC
"""
