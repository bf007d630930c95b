"""The other services over HTTP: JSON, server-sent events, files.

application.py   the routes
rpc.py           every RPC by its descriptor, and by the paths of its `google.api.http` option
former.py        the paths and bodies of the users' former API
events.py        watches of the registry as server-sent events, shared by their readers
logs.py          what jobs printed, as text or as server-sent events
rows.py          rows of results, datasets and designs in a format of the caller's choice
artifacts.py     files of jobs
uploads.py       files of callers
page/            the page for browsers
messages.py      JSON and query parameters to messages, and back
answers.py       errors as JSON, with the HTTP status of each gRPC status
upstream.py      calls of the other services with the rights of the caller
door.py          who may call: hosts, origins, tokens, sessions, the owner's connections
gate.py          what every request passes: the door, limits, errors, headers, metrics
listener.py      the HTTP server: its socket, TLS and connections
openapi/         the OpenAPI document, Swagger UI and Redoc
config.py        settings, from VISTAFLOW_GATEWAY_* variables
__main__.py      builds the service and runs it
"""
