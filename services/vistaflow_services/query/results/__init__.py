"""Stored results.

pages.py       their rows in every format
storage.py     where their parts are: beside their list, or in the stores
"""
