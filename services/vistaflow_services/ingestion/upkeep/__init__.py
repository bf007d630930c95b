"""Jobs that look after the whole installation.

requests.py  their requests, checked before anything is queued
backup.py    the BACKUP job: the log, the datasets and the artifacts to targets
cleanup.py   the CLEANUP job, and the REPAIR job
"""
