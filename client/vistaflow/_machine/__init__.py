"""What clients, commands and services share about the machine they run on.

local.py        the suite of a home: its address and its token
archive.py      decks packed for a request
encoding.py     text in and out, whatever the encoding
interpreter.py  how vistaflow starts Python
settings.py     the environment variables
"""
