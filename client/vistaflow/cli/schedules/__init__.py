"""The commands for schedules.

changes.py  schedule create, update, pause, resume, run, delete
lists.py    schedule list, show, next
times.py    timings and times as text, and the spans of options
"""
