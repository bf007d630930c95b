"""Leased jobs.

worker.py            leases jobs, runs attempts, reports
run.py               one attempt, as the worker sees it
child.py             the child process of one attempt
process.py           the worker's side of that process, and how it is ended
spawner.py           starts such processes
forks/               forks them of a process with their imports done
process_groups.py    process groups, limits, and death with the parent
templates.py         specs of data kits, completed when an attempt starts
attempt.py           what a job sees of the world while it runs
artifacts.py         the artifact store
uris.py              URIs of artifacts
query_results.py     results of queries, and how long they are kept
hold.py              holds removals back while a backup is made
reader.py            reads files that jobs wrote, below a folder and never out of it
artifact_service.py  the gRPC service that reads artifacts and logs
pictures.py          pictures of a result, none of which can fail its job
"""
