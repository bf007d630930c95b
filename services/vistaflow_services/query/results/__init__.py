"""Stored results.

pages.py       their rows in every format
"""
