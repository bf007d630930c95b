"""An existing script reports its states: one call for each.

    python examples/external_job.py 24

You run the script; `vistaflow watch KIT` in another terminal shows it live, and its
states are in the same log as those of every other job.
"""

from __future__ import annotations

import sys
import time

import vistaflow


def leakage_at(celsius: float) -> float:
    """The existing work, here a diode's leakage in A."""
    if celsius > 150:
        raise ValueError(f"the chuck only goes to 150 degC, not {celsius:g}")
    time.sleep(0.2)
    return float(1e-12 * 2 ** ((celsius - 25) / 10))


def main(temperatures: list[float]) -> None:
    with vistaflow.connect() as client:
        # A text among the jobs is the type of an external one: no worker takes it.
        kit = client.create_kit("leakage on the bench", ["DOE"], labels={"bench": "3"})
        job_id = kit.jobs[0].job_id
        print(f"vistaflow watch {kit.kit_id}", flush=True)

        client.append(job_id, "RUNNING", actor="bench 3")
        measured = {}
        for celsius in temperatures:
            task = f"{celsius:g} degC"
            client.append(job_id, "RUNNING", task_name=task)
            try:
                measured[task] = leakage_at(celsius)
            except ValueError as error:
                client.append(job_id, "FAILED", task_name=task, reason=str(error))
            else:
                result = {"leakage": measured[task]}
                client.append(job_id, "FINISHED", task_name=task, metadata=result)

        if measured:
            client.append(job_id, "FINISHED", metadata={"result": measured})
        else:
            client.append(job_id, "FAILED", reason="nothing could be measured")
        print(client.kit(kit.kit_id).status)


if __name__ == "__main__":
    main([float(argument) for argument in sys.argv[1:]] or [25.0, 85.0, 125.0])
