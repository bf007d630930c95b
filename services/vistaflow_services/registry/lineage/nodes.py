"""What one job made, as a node of a lineage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.lineage.sources import JobRow

FILE: Final = "file:"
"""What the id of a file begins with; its name follows."""

_KINDS: Final = {
    "DECK_COLLECTION": pb.LINEAGE_KIND_DECK,
    "IMPORT": pb.LINEAGE_KIND_DATASET,
    "CONVERT": pb.LINEAGE_KIND_CONVERSION,
    "COLLECT": pb.LINEAGE_KIND_COLLECTION,
    "QUERY": pb.LINEAGE_KIND_QUERY,
    "DOE": pb.LINEAGE_KIND_DESIGN,
    "ML_PREPROCESS": pb.LINEAGE_KIND_ROWS,
    "ML_SCALE": pb.LINEAGE_KIND_SCALER,
    "ML_TRAIN": pb.LINEAGE_KIND_MODEL,
    "ML_TEST": pb.LINEAGE_KIND_TEST,
    "OPTIMIZE": pb.LINEAGE_KIND_OPTIMUM,
    "DELIVER": pb.LINEAGE_KIND_DELIVERY,
}
_FILES: Final = {
    pb.LINEAGE_KIND_DESIGN: "design",
    pb.LINEAGE_KIND_ROWS: "dataset",
    pb.LINEAGE_KIND_SCALER: "scaler",
    pb.LINEAGE_KIND_MODEL: "model",
    pb.LINEAGE_KIND_OPTIMUM: "trials",
}
"""The key of a result that describes the file that the job made."""


def node_of(row: JobRow) -> pb.LineageNode:
    """What a job made."""
    node = pb.LineageNode(
        id=str(row.job_id),
        kind=_KINDS.get(row.job_type, pb.LINEAGE_KIND_JOB),
        name=row.name,
        kit_id=row.kit_id,
        job_id=str(row.job_id),
        status=common_pb2.Status.Value(f"STATUS_{row.status}"),
    )
    node.created_at.FromDatetime(row.created_at)
    result = row.result if isinstance(row.result, Mapping) else {}
    file = result.get(_FILES.get(node.kind, ""))
    file = file if isinstance(file, Mapping) else {}
    node.sha256, node.uri = _text(file.get("sha256")), _text(file.get("uri"))
    if row.dataset is not None:
        node.name = f"{row.project}.{row.dataset}@{row.version}"
        node.sha256 = row.digest or ""
    elif node.kind == pb.LINEAGE_KIND_DESIGN and isinstance(result.get("evaluated_count"), int):
        node.name = f"{result['evaluated_count']} points"
    elif node.kind == pb.LINEAGE_KIND_DECK:
        decks = result.get("decks")
        deck = decks[0] if isinstance(decks, list) and len(decks) == 1 else {}
        if isinstance(deck, Mapping):
            name = f"{_text(deck.get('name'))} {_text(deck.get('version'))}".strip()
            node.name = name or row.name
            node.sha256, node.uri = _text(deck.get("deck_id")), _text(deck.get("uri"))
    elif node.kind == pb.LINEAGE_KIND_OPTIMUM and isinstance(result.get("best"), Mapping):
        value = result["best"].get("objective")
        if isinstance(value, int | float):
            node.name = f"{_text(result.get('objective')) or row.name} = {value:.6g}"
    return node


def file_node(name: str, facts: Mapping[str, Any]) -> pb.LineageNode:
    """A file that a job read.

    Args:
        name: As the job's request names it.
        facts: What the job recorded of it: `title` and `sha256`, as far as it did.
    """
    return pb.LineageNode(
        id=FILE + name,
        kind=pb.LINEAGE_KIND_FILE,
        name=_text(facts.get("title")) or name,
        sha256=_text(facts.get("sha256")),
        uri=name,
    )


def files_read(row: JobRow) -> dict[str, Mapping[str, Any]]:
    """What a job recorded of the files that it read, by their names in its request."""
    result = row.result if isinstance(row.result, Mapping) else {}
    recorded = result.get("inputs" if row.job_type == "CONVERT" else "files")
    return {
        str(entry.get("name")): entry
        for entry in (recorded if isinstance(recorded, list) else ())
        if isinstance(entry, Mapping)
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
