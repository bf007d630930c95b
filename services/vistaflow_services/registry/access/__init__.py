"""Bearer tokens, and which project a caller sees.

tenancy.py  keeps a caller within its project
service.py  creates, lists, revokes and checks tokens
issuer.py   checks the tokens of an OpenID Connect issuer
trail.py    lists who asked for what, and what was answered
store.py    tokens in the database
command.py  the same on the machine of the database, where no token is needed
"""
