"""Kits that the pipeline runs.

sources.py    kits as callers give them, put into requests
schedules.py  the methods for kits that are run again and again
"""
