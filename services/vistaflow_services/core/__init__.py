"""What every service stands on.

errors.py           the errors a service may raise
formulas.py         arithmetic over named values
expressions.py      the small grammar of constraints and goals

server.py           the shell a service runs in: health, reflection, limits, drain
interceptor.py      ends every call that raised with the right status, and leaks nothing
status.py           errors as gRPC statuses with details, there and back
channels.py         channel arguments, checked against the names gRPC knows
config.py           settings from the environment
log.py              JSON logs to stderr and files, without secrets
sql.py              SQL from files, by name
migrations.py       brings a database up to date

artifacts.py        the artifact store
jobs.py             what a job sees of the world while it runs
attempt.py          the process of one attempt
processes.py        ends processes and all below them
execution.py        that process as its worker sees it: messages, log, end
running.py          one attempt from its grant to its last row
worker.py           leases jobs from the registry and runs them
registry_client.py  the registry as the other services call it
stage.py            the one shape of a stage service
"""
