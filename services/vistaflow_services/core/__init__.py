"""What every service stands on.

errors.py       the errors a service may raise
expressions.py  the small grammar of constraints and goals
server.py       the shell a service runs in: health, reflection, errors, drain
log.py          JSON logs to stderr and files
artifacts.py    the artifact store
jobs.py         what a job sees of the world while it runs
attempt.py      the child process of one attempt
worker.py       leases jobs, runs attempts, reports
"""
