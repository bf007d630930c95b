"""Commands of simulators, under limits.

supervisor.py  runs a command and ends all its processes
launcher.py    the process that starts the runs of a thread
launch.py      its program, which sets the limits and becomes the command
limits.py      the limits of a run
sandbox.py     what a run may see
step.py        one command of a run
verdict.py     why an unsuccessful run ended
"""
