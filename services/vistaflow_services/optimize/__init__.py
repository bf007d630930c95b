"""Optimisation: the best design that constraints allow, proven by the simulator; model tuning.

domain.py        goals, plans, what a point is worth
misses.py        how far constraints are missed, on scales that add up
observation.py   an evaluated point, as a search takes it in
cube.py          the unit cube that is searched: discrete levels, known constraints
warping.py       scales on which quantities are easiest to predict
posterior.py     predictions of several Gaussian processes at once
surfaces.py      those processes, learnt as data grows
acquisition.py   how promising an untried point is
climbing.py      local search up an acquisition, down a prediction
bayes.py         the search: ask and tell
forecast.py      what a study expects of each response before it is simulated
replicates.py    noise, from runs that repeat a point
study.py         the loop: ask, simulate, tell, verify
last_model.py    the model of all that a study knows
suggestion.py    the point a trained model would try first
tuning.py        hyper-parameters by cross-validation
inputs.py        finds the design, deck, model or dataset that a study refers to
trials.py        trials.parquet
plots.py         convergence, predicted against simulated
specs.py         messages to plans
messages.py      manifests to messages
jobs.py          what an OPTIMIZE job does; tuning_job.py its half for models
servicer.py      the gRPC service
config.py        settings, from VISTAFLOW_OPTIMIZE_* variables
__main__.py      puts them together and serves
"""
