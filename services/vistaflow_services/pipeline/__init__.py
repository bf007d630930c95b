"""Pipeline: a whole kit validated at once, and started.

domain.py      what a kit is, and every mistake it can have
kitfile.py     kit.yaml to a kit spec, with the line of every mistake
estimate.py    how long the runs of a kit may take
schema.py      kit.yaml as a JSON Schema for editors
translate.py   between the protos and the domain; the jobs of a kit
successor.py   a kit that goes on in another deck
extension.py   a kit that goes on from all that another knows
reuse.py       the known points that a kit takes, and points that are imported
points.py      rows of a table as points of a deck
notify.py      whom a kit or a schedule notifies
flows/         data kits: jobs that use what earlier ones published
services.py    other services as the pipeline asks them
schedules/     kits that are run again and again
deliveries/    events on their way to other programs
servicer.py    the gRPC service
config.py      settings, from VISTAFLOW_PIPELINE_* variables
simulators.py  asks the DOE service which simulators are there
reading.py     a request's kit as a full spec and a plan
__main__.py    puts them together and serves
"""
