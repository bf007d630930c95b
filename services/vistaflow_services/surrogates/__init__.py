"""Models of simulator responses over a parameter space.

surrogate.py    the protocol of all families, folds, scores
families/       the families: Gaussian process, polynomial, trees
choice.py       the families by name, and their choice by cross-validation
logarithms.py   whether logarithms predict better, by cross-validation
transforms.py   log10 of responses that span decades, and back
features.py     raw points checked and turned into the inputs of models
dataset.py      rows of a design, rows to learn from, their Parquet files
extremes.py     values too large to be a response
preparation.py  rows made fit to learn from: cleaning, outliers, the split
scaling.py      the scaler, fitted on training rows alone
model.py        the chain from raw points to predictions with units
storage.py      a model on disk: arrays, JSON and hashes, nothing executable
metrics.py      held-out figures with confidence intervals
manifest.py     what the ML jobs publish
limits.py       limits of settings, for checks before anything is trained
"""
