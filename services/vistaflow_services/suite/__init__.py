"""The whole suite on one machine: `python -m vistaflow_services.suite`.

supervisor.py   one service: started, proven to serve, started again when it dies
child.py        the process of a service, which ends with the suite
ports.py        a free port for a service
home.py         what lies under $VISTAFLOW_HOME, and who runs there
__main__.py     starts all of them, in order, and stops them
"""
