"""What every service stands on.

errors.py           the errors a service may raise
expressions.py      the small grammar of constraints and goals; formulas.py parses it
config.py           one frozen dataclass a service, read from the environment
home.py             the folder where everything is kept, and whether this user may use it
log.py              JSON logs to stderr and files, secrets kept out
server.py           the shell a service runs in: health, reflection, drain
reflection.py       what calls and messages are, for tools, with the protos' comments
handlers.py         what interceptors make of the handlers of calls
interceptor.py      every exception to a clean status; status.py has its details
request_size.py     how large a request may be, found out before it is parsed
metrics.py          Prometheus: calls, event loop; health checks; listener.py serves them over HTTP
door.py             who is let in: tokens, roles, limits; access.py reads the protos for it
owner.py            the user who runs the suite, and the token of everybody else;
                    connections.py looks up the user of a connection
callers.py          whose call is being served, and what that caller may do
tokens.py           bearer tokens; vouching.py asks the registry whose they are
limits.py           how often callers may call; buckets.py counts for each of many
message_limits.py   how large a message may be, in and out
tls.py              a server's certificates; dial.py opens channels to other services
channels.py         channel arguments, checked against the names gRPC knows
registry_client.py  the registry, as the other services call it
stage.py            the one shape of a stage service
off_loop.py         work that would hold the event loop up, done in a thread beside it
tasks.py            tasks that are canceled, however often it takes
worker.py           leases jobs, runs attempts, reports; running.py is one of them
attempt.py          the child process of one attempt; execution.py talks to it and ends it
children.py         starts such processes; forkserver.py forks them with imports done
processes.py        process groups, limits, and dying with one's parent
jobs.py             what a job sees of the world while it runs
job_ids.py          which texts are ids of jobs, for the registry and the workers alike
results.py          reads what jobs published, which may be anything
artifacts.py        the artifact store
pictures.py         pictures of a result, none of which can fail its job
files.py            files that are there whole or not at all
sql.py              queries in .sql files; migrations.py applies numbered ones
postgres.py         how every session with PostgreSQL is opened
failpoints.py       named points at which a test can make a process die or stall
probe.py            asks a service whether it serves, for container health checks
"""
