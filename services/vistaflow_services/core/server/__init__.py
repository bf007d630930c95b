"""What a running service consists of.

shell.py     the gRPC server: health, reflection, drain
metrics.py   Prometheus: calls, event loop; health checks
listener.py  serves them over HTTP
probe.py     asks a service whether it serves, for container health checks
"""
