"""Bayesian search for the best point under constraints. No gRPC, no simulator.

bayes.py        the search: ask and tell
cube.py         the unit cube that is searched: discrete levels, known constraints
observation.py  an evaluated point, as the search takes it in
misses.py       by how much constraints are missed, on scales that can be added
warping.py      scales on which quantities are easiest to predict
posterior.py    predictions of several Gaussian processes at once
surfaces.py     those processes, trained as data grows
acquisition.py  how promising an untried point is
climbing.py     local search up an acquisition, down a prediction
forecast.py     what a study expects of each response before it is simulated
limits.py       limits of studies, for checks before anything runs
manifest.py     what studies publish
"""
