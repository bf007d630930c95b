"""Lineage as a tree on a terminal, for `show --lineage` and `dataset lineage`."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.cli.connection import answer_of
from vistaflow.cli.output import Address, AsJson, console, print_json

_KIND = "LINEAGE_KIND_"
_HASH_CHARACTERS = 12


def lineage(
    source: Annotated[
        str,
        typer.Argument(help="A dataset, such as bench or bench@3, or a file.", metavar="SOURCE"),
    ],
    address: Address = "",
    back: Annotated[
        bool, typer.Option("--back", help="What it was made from, not what was made of it.")
    ] = False,
    as_file: Annotated[
        bool, typer.Option("--file", help="SOURCE is a file: raw/x.json, or an uploaded one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show everything that was made of a dataset or a file, or what it was made from.

    For example: vistaflow dataset lineage bench@2; vistaflow dataset lineage raw/x.json --file
    """
    direction = "back" if back else "forward"
    answer = answer_of(
        address,
        lambda client: client.lineage(
            dataset="" if as_file else source, file=source if as_file else "", direction=direction
        ),
    )
    print_lineage(answer, back=back, as_json=as_json)


def print_lineage(
    answer: registry_pb2.GetLineageResponse, *, back: bool, as_json: bool = False
) -> None:
    """Prints a lineage: from the start to what is behind or before it; a node is unfolded once."""
    if as_json:
        print_json(answer)
        return
    nodes = {node.id: node for node in answer.nodes}
    following: dict[str, list[str]] = defaultdict(list)
    ends = set()
    for edge in answer.edges:
        near, far = edge.source_id, edge.target_id
        if back:
            near, far = far, near
        following[near].append(far)
        ends.add(far)
    unfolded: set[str] = set()

    def add(tree: Tree, node_id: str) -> None:
        label = _label(nodes[node_id])
        if node_id in unfolded and following[node_id]:
            tree.add(label.append(" …", style="dim"))
            return
        unfolded.add(node_id)
        branch = tree.add(label)
        for other in following[node_id]:
            add(branch, other)

    root = Tree(Text("made from" if back else "used by"), guide_style="dim")
    for node in answer.nodes:
        if node.start and node.id not in ends:
            add(root, node.id)
    console.print(root)
    if answer.truncated:
        console.print("there is more; the first 1,000 are shown")


def _label(node: registry_pb2.LineageNode) -> Text:
    kind = registry_pb2.LineageKind.Name(node.kind).removeprefix(_KIND).lower()
    text = Text(f"{kind} ").append(node.name, style="bold")
    if node.kit_id:
        text.append(f"  kit {node.kit_id}")
    if node.sha256:
        text.append(f"  {node.sha256[:_HASH_CHARACTERS]}", style="dim")
    return text
