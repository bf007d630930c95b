"""What every service stands on.

No wing imports one above it here:

work/               leased jobs: workers, child processes, artifacts
work.forks/         attempts forked from a process with their imports done
server/             the shell a service runs in, metrics, probes
door/               who may call, and how often
rpc/                the handling of every call: errors, sizes, TLS, reflection

errors.py           the errors a service may raise
config.py           one frozen dataclass a service, read from the environment
home.py             the folder where everything is stored, and whether this user may use it
log.py              JSON logs to stderr and files, without secrets
files.py            files that are written whole or not at all
message_limits.py   how large a message may be, in and out
names.py            names, labels and ids: what is allowed, for the registry and its callers
results.py          finds and reads the results of jobs, which may have any format
lru.py              a mapping of bounded size; what was used longest ago leaves first
tasks.py            tasks that are canceled, however often it takes
off_loop.py         work that would block the event loop, in a thread beside it
failpoints.py       named points at which a test can stop or kill a process
dial.py             channels to other services
registry_client.py  the registry, as the other services call it
vouching.py         asks the registry whose a token is
stage.py            the common form of stage services
"""
