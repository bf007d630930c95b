"""Data kits: `kit.yaml` with `jobs:`, each of which may use what earlier ones published.

published.py  the kinds of jobs, and what each publishes
flow.py       a data kit and its order
designs.py    values of earlier jobs in a design, and the stages that take them
reader.py     kit.yaml to a data kit, with the line of every mistake
checks.py     what only the services know: hosts, files, datasets, SQL
reading.py    all of that for one request
schema.py     kit.yaml of both forms as a JSON Schema for editors
creation.py   a data kit as the request that makes it
"""
