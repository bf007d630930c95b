"""Surrogates of a simulator, from the rows of a design to predictions.

domain.py      what training and testing are
plots.py       parity, residual and calibration pictures
specs.py       what the messages mean to the domain
references.py  finds what a job refers to
jobs.py        the four jobs: preprocess, scale, train, test
messages.py    domain values as messages
servicer.py    translates calls; predicts from the artifact store
config.py      settings
__main__.py    builds the service and runs it
"""
