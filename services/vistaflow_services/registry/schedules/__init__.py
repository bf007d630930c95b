"""Schedules and their fires: when kits are made again, and which were made.

Beside the log: a schedule changes in a transaction of its own. The pipeline services plan fires;
here they are recorded, each once, and their kits are made.

service.py   the gRPC service
messages.py  protos to values and back
store.py     schedules in the database
"""
