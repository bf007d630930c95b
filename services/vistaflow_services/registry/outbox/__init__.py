"""Events for other programs: which there are, who gets them, how far each delivery is.

Beside the log. What a change of a dataset or a schedule announces is recorded in its transaction;
what the log says about kits and jobs is recorded afterwards, up to a stored revision, so that
appending costs what it did. The pipeline services lease deliveries and send them.

service.py   the gRPC service
store.py     webhooks and deliveries in the database
recorder.py  records the events that follow from the log
events.py    events for webhooks
lineage.py   jobs as OpenLineage events
sealing.py   secrets at rest, and signatures
messages.py  protos to values and back
"""
