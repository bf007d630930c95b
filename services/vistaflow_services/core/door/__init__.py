"""Who may call, and how often.

interceptor.py  the door that all calls pass: tokens, roles, limits
access.py       the `access` options of the protos
callers.py      who makes the current call, and what that caller may do
tokens.py       bearer tokens
owner.py        the user who runs the suite, and the token of everybody else
connections.py  the user of a connection
limits.py       calls a second and open streams of each caller
buckets.py      token buckets for many callers
"""
