"""A data kit and its order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow_services.pipeline.domain import KitPlan
from vistaflow_services.pipeline.flows.published import KINDS, Kind, Published


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A value of an earlier job that a job uses."""

    job: str
    value: str
    field: str
    """Where it goes in the request, as `JobValue.field`; of a design, in its `KitSpec`."""

    published: Published


@dataclass(kw_only=True)
class FlowJob:
    """A job of a data kit."""

    name: str
    word: str
    """Its kind, such as `import`."""

    request: Message
    """Without the values of its references."""

    depends_on: list[str] = field(default_factory=list)
    """The jobs before it, by the file and by its references."""

    references: list[Reference] = field(default_factory=list)
    max_attempts: int = 0
    path: str = ""
    """Where the file has its request."""

    file: str = ""
    """The other file that has its request; empty for the kit file."""

    options: Any = None
    """Of a design: what the file says, without the values of other jobs."""

    spec: pipeline_pb2.KitSpec | None = None
    """Of a design: its spec with the defaults filled in."""

    plan: KitPlan | None = None
    reuse: doe_pb2.ReuseSpec | None = None

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return KINDS[self.word]


@dataclass(kw_only=True)
class Flow:
    """A data kit."""

    name: str = ""
    project: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    notify: Sequence[outbox_pb2.Notify] = ()
    max_attempts: int = 0
    jobs: dict[str, FlowJob] = field(default_factory=dict)

    def cycles(self) -> Iterator[Sequence[str]]:
        """The names of jobs that wait for each other, each once."""
        done, seen = set[str](), set[str]()
        for start in self.jobs:
            way = list[str]()
            stack: list[tuple[str, bool]] = [(start, False)]
            while stack:
                name, is_left = stack.pop()
                if is_left:
                    way.pop()
                    done.add(name)
                elif name in way:
                    cycle = way[way.index(name) :]
                    if not seen & set(cycle):
                        seen |= set(cycle)
                        yield cycle
                elif name not in done:
                    way.append(name)
                    stack.append((name, True))
                    before = self.jobs[name].depends_on
                    stack += [(other, False) for other in before if other in self.jobs]

    def before(self, name: str) -> set[str]:
        """All jobs that end before a job begins."""
        earlier, left = set[str](), [name]
        while left:
            for other in self.jobs[left.pop()].depends_on:
                if other in self.jobs and other not in earlier:
                    earlier.add(other)
                    left.append(other)
        return earlier
