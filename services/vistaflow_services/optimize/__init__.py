"""Optimisation: the best design that constraints allow, proven by the simulator; model tuning.

The search itself is the library `search`.

domain.py      goals, plans, what a point is worth
study.py       the loop: ask, simulate, tell, verify
replicates.py  noise, from runs that repeat a point
last_model.py  the model of all that a study knows
suggestion.py  the point a trained model would try first
tuning.py      hyper-parameters by cross-validation
inputs.py      finds the design, deck, model or dataset that a study refers to
trials.py      trials.parquet
pictures/      what someone asks for, drawn at that moment
plots.py       convergence, predicted against simulated
specs.py       messages to plans
messages.py    manifests to messages
jobs.py        what an OPTIMIZE job does; tuning_job.py its half for models
servicer.py    the gRPC service
config.py      settings, from VISTAFLOW_OPTIMIZE_* variables
__main__.py    builds the service and runs it
"""
