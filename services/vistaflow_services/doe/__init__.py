"""Design of experiments: makes designs and runs them through simulators.

domain.py      what a design is, where it lies, how it is asked for, the limits
generators.py  factorial, Latin hypercube, Sobol, Halton, with constraints
ese.py         the optimiser of Latin hypercubes
spread.py      chooses points that lie far apart, for constrained spaces
catalog.py     the generators, for people who choose one
quality.py     discrepancy, distances, correlation, coverage
table.py       design.parquet: written once, read in chunks
plots.py       pictures of a design and its responses
evaluation.py  what came of running a design, and whether it is enough to go on
specs.py       from the protos to the domain, with field paths
messages.py    from the domain to the protos
references.py  finds the deck and the design that a job refers to
jobs.py        what a DOE job does
servicer.py    the gRPC service
config.py      settings, from VISTAFLOW_DOE_* variables
__main__.py    puts them together and serves
"""
