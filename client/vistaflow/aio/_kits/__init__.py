"""Kits that the pipeline runs.

sources.py    kits as callers give them, put into requests
extension.py  the methods that go on from what is known: extended kits, points, lineage
schedules.py  the methods for kits that are run again and again
"""
