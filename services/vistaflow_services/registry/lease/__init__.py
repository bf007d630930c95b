"""LeaseJobs: jobs to workers, heartbeats, expiry.

service.py   the jobs that are given out, and the leases that end
session.py   the stream of one worker
messages.py  its messages, to and from the domain
store.py     the leases in the database
"""
