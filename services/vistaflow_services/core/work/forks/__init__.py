"""Attempts forked from a process that has their imports done.

server.py   that process
owner.py    starts it, and connects services to it
client.py   the connection of a service, and the attempts forked over it
"""
