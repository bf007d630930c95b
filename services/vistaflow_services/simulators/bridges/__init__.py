"""Simulators that the operator registers or users bring, behind the one contract of a run.

registered.py  what the operator has registered: programs, servers, folders of models
results.py     figures from what a run has written: JSON, CSV, patterns, a Python function
command.py     a registered program, a process for each point
server.py      a registered gRPC server, in any language
table.py       measured points
"""
