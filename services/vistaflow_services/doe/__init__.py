"""Design of experiments: makes designs (library `designs`) and runs them through simulators.

evaluation.py  the outcome of running a design, and whether it is enough to continue
plots.py       pictures of a design and its responses
specs.py       from the protos to the domain, with field paths
messages.py    from the domain to the protos
looking.py     one point, run to be looked at
references.py  finds the deck and the design that a job refers to
known.py       known points that a design takes as rows
jobs.py        what a DOE job does
servicer.py    the gRPC service
config.py      settings, from VISTAFLOW_DOE_* variables
__main__.py    builds the service and runs it
"""
