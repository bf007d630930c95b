"""Designs of experiments: points that fill a space, under constraints. No gRPC.

recipe.py      how a design is requested, the region it covers, its points; the limits
generators.py  factorial, Latin hypercube, Sobol, Halton, with constraints
ese.py         the optimiser of Latin hypercubes
spread.py      chooses points that lie far apart, for constrained spaces
catalog.py     the generators, with descriptions for people
quality.py     discrepancy, distances, correlation, coverage
table.py       design.parquet: written once, read in chunks
journal.py     rows of a job under way, for its readers
manifest.py    what a DOE job publishes of its design
"""
