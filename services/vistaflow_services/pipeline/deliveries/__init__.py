"""Events on their way to other programs.

loop.py    leases deliveries from the registry, sends them, reports
sender.py  one delivery: an HTTP request to a host that the operator allows
"""
