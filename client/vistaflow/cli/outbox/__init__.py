"""The commands for events that are sent to other programs.

webhooks.py    webhook set, list, delete, test
deliveries.py  deliveries, delivery retry
"""
