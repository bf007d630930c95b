"""A loop of your own from the same parts: design, run, read, train, predict.

    python examples/own_loop.py

Each call starts a job in the log like any other; its id identifies the result.
"""

from __future__ import annotations

import random
from typing import Any

import vistaflow
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ml.v1 import ml_pb2


def evaluated_design(client: vistaflow.Client, deck: str, size: int) -> str:
    """Generates a design over a deck and runs it; returns its id."""
    recipe = doe_pb2.DesignSpec(generator=doe_pb2.GENERATOR_SOBOL, size=size, seed=1)
    design = client.generate_design(deck, recipe)
    client.wait(design.kit_id)
    run = client.evaluate_design(design.job_id)
    client.wait(run.kit_id)
    return run.job_id


def trained_model(client: vistaflow.Client, design_id: str) -> str:
    """Trains on the rows of a design; returns the model's id. Jobs refer to each other by name."""
    kit_id = client.create_kit("a model of my own").kit_id
    rows = client.create_job(
        "ML_PREPROCESS", ml_pb2.PreprocessSpec(design=design_id, test_fraction=0.1), kit_id=kit_id
    )
    scaler = client.create_job(
        "ML_SCALE", ml_pb2.ScaleSpec(dataset=rows.name), kit_id=kit_id, depends_on=[rows.name]
    )
    model = client.create_job(
        "ML_TRAIN", ml_pb2.TrainSpec(scaler=scaler.name), kit_id=kit_id, depends_on=[scaler.name]
    )
    client.wait(kit_id)
    return model.job_id


def describe(rows: list[dict[str, Any]], response: str) -> str:
    """Describes the rows, with pandas if it is installed."""
    try:
        import pandas
    except ImportError:
        values = [row[response] for row in rows if not row["failure"]]
        return f"{len(values)} rows, {response} from {min(values):.4g} to {max(values):.4g}"
    return str(pandas.DataFrame(rows)[response].describe())


def main() -> None:
    with vistaflow.connect() as client:
        design_id = evaluated_design(client, "branin", size=32)
        rows = client.design_rows(design_id)
        print(describe(rows, "y"))

        model_id = trained_model(client, design_id)
        chance = random.Random(1)
        tries = [{"x1": chance.uniform(-5, 10), "x2": chance.uniform(0, 15)} for _ in range(2000)]
        predicted = client.predict(model_id, tries)
        promising = min(
            range(len(tries)),
            key=lambda index: (
                predicted[index]["y"].mean - 2 * predicted[index]["y"].standard_deviation
            ),
        )
        value = predicted[promising]["y"]
        print(f"lowest of the design: {min(row['y'] for row in rows):.4f}")
        print(f"lowest promised: {value.low95:.4f} to {value.high95:.4f} at {tries[promising]}")


if __name__ == "__main__":
    main()
