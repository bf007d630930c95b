"""Schedules: kits that are run again and again.

timing.py    when a schedule fires: cron in a time zone, intervals; pure
plan.py      what happens at each fire: overlap, catch-up; pure
loop.py      plans what is due and has the kits made, beside other pipeline services
messages.py  protos of schedules, from and to the domain
calls.py     the methods of the gRPC service
"""
