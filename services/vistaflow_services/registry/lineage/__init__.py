"""Lineage: what was made of what, from what jobs record. Nothing is stored for it.

sources.py  what one job used: other jobs, versions of datasets, files
nodes.py    what one job made, as a node
trace.py    the walk from a start, back or forward
"""
