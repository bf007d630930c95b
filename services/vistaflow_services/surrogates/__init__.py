"""Models of simulator responses over a parameter space.

surrogate.py         the protocol of all families, folds, scores
kernels.py           covariances of the Gaussian process
factors.py           its covariance, factored
gaussian_process.py  Gaussian process: smooth simulators
polynomial.py        ridge regression on a full polynomial: few points, strong trends
forest.py            a fitted ensemble of trees as plain arrays
trees.py             extremely randomised trees, gradient boosting: rough or tabular responses
choice.py            the families by name, and their choice by cross-validation
logarithms.py       whether logarithms predict better, by cross-validation
transforms.py        log10 of responses that span decades, and back
features.py          raw points checked and turned into the inputs of models
dataset.py           rows of a design, rows to learn from, their Parquet files
extremes.py          values too large to be a response
preparation.py       rows made fit to learn from: cleaning, outliers, the split
scaling.py           the scaler, fitted on training rows and on nothing else
model.py             the chain from raw points to predictions with units
storage.py           a model on disk: arrays, JSON and hashes, nothing that executes
metrics.py           held-out figures with confidence intervals
"""
