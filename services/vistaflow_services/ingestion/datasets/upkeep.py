"""Tidies the stores while ingestion serves, by a process of its own each time, and counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from vistaflow._machine.interpreter import module_command
from vistaflow_services.core import files
from vistaflow_services.core.server.metrics import Metrics
from vistaflow_services.core.stage import Stage
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.stores import Tidied

logger = logging.getLogger(__name__)

FIRST_PART = 120
"""The first round comes after this part of the time between two: 30 s of an hour."""

PROGRAM = "vistaflow_services.ingestion.repair"


async def keep_stores(stage: Stage) -> None:
    """Tidies the stores again and again until canceled; the first time each is probed, too."""
    assert isinstance(stage.config, Config)
    meters, descriptions = _Meters(stage.metrics), list[str]()
    # Not while everything starts.
    await asyncio.sleep(stage.config.sweep_seconds / FIRST_PART)
    while stage.config.sweep_seconds:
        outcome = await _tidied(stage, probe=not descriptions)
        for description in outcome["stores"]:
            logger.info("%s", description)
        for problem in outcome["errors"]:
            logger.error("the stores are not tidied to the end: %s", problem)
        if outcome["lost"]:
            count = len(outcome["lost"])
            logger.error("%d files have no undamaged copy, such as %s", count, outcome["lost"][0])
        meters.count(outcome)
        descriptions = outcome["stores"] or descriptions
        if not outcome["busy"]:
            _note(stage.home, descriptions, outcome)
        await asyncio.sleep(stage.config.sweep_seconds)


def _note(home: Path, descriptions: list[str], outcome: dict[str, Any]) -> None:
    """Leaves a file for `vistaflow doctor`."""
    state = {"stores": descriptions, "errors": outcome["errors"], "lost": len(outcome["lost"])}
    with contextlib.suppress(OSError):  # a full disk must not end the service
        files.write(home / "run" / "stores.json", json.dumps(state).encode())


async def _tidied(stage: Stage, *, probe: bool) -> dict[str, Any]:
    """What the program did; if the service stops it ends, and is done again later."""
    variables = {"VISTAFLOW_HOME": str(stage.home), "VISTAFLOW_REGISTRY": stage.registry.address}
    try:
        process = await asyncio.create_subprocess_exec(
            *module_command(PROGRAM),
            *(["--probe"] if probe else []),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **variables},
        )
    except OSError as error:
        return Tidied(errors=[f"{PROGRAM} does not start: {error.strerror}"]).to_dict()
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        outcome: dict[str, Any] = json.loads(output)
    except ValueError:
        return Tidied(errors=[f"{PROGRAM} ended with status {process.returncode}"]).to_dict()
    return outcome


class _Meters:
    """Counts for Prometheus, if there are metrics."""

    def __init__(self, metrics: Metrics | None) -> None:
        if metrics is None:
            self._counters: dict[str, Any] = {}
            return
        import prometheus_client as prometheus

        self._counters = {
            name: prometheus.Counter(f"vistaflow_stores_{name}", text, registry=metrics.registry)
            for name, text in (
                ("purged", "Files with forgotten records that were purged."),
                ("restored", "Copies of files that were restored."),
                ("swept", "Files that no version refers to which were removed."),
                ("swept_bytes", "Bytes of these."),
                ("collections", "Collections whose pages were removed."),
                ("errors", "Steps of tidying that failed."),
            )
        }
        self._lost = prometheus.Gauge(
            "vistaflow_stores_lost",
            "Files without an undamaged copy when it was last looked.",
            registry=metrics.registry,
        )
        self._tidied_at = prometheus.Gauge(
            "vistaflow_stores_tidied_timestamp_seconds",
            "When the stores were last tidied to the end.",
            registry=metrics.registry,
        )

    def count(self, outcome: dict[str, Any]) -> None:
        """Counts what was done."""
        for name, counter in self._counters.items():
            number = outcome.get(name, 0)
            counter.inc(len(number) if isinstance(number, list) else number)
        if self._counters and not outcome["busy"]:
            self._lost.set(len(outcome["lost"]))
            if not outcome["errors"]:
                self._tidied_at.set(time.time())
