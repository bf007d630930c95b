"""What happens to every call.

interceptor.py   exceptions to clean statuses
status.py        a status with its details
handlers.py      handlers of calls, wrapped by interceptors
request_size.py  how large a request may be, checked before it is parsed
channels.py      channel arguments, checked against the names gRPC knows
pages.py         sizes of pages, and tokens of where the next one starts
tls.py           a server's certificates
reflection.py    what calls and messages are, for tools, with the protos' comments
"""
