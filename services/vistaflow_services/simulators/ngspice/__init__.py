"""Circuits, simulated by ngspice.

simulator.py  runs a circuit
batches.py    several points of a circuit in one process
models.py     libraries of models in registered folders
output.py     what ngspice printed, and the evidence for and against success
screening.py  what a circuit deck may not do
"""
