"""The families of models.

kernels.py           covariances of the Gaussian process
factors.py           its covariance matrix, factored
gaussian_process.py  Gaussian process: smooth simulators
polynomial.py        ridge regression on a full polynomial: few points, strong trends
forest.py            a fitted ensemble of trees as plain arrays
trees.py             extremely randomised trees, gradient boosting: rough or tabular responses
"""
