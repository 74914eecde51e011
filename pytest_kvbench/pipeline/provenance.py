"""What an analysis was made from: a digest of its inputs, and the shared controls it used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pytest_kvbench import installed
from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.records import Cell, Request, canonical
from pytest_kvbench.rows import ControlUse
from pytest_kvbench.store.controls import control_key


def inputs_of(
    prepared: Prepared,
    planned: Sequence[tuple[Cell, Request]],
    rows: Observations,
    since: str | None,
) -> str:
    """Digest of all that an analysis depends on; texts and telemetry come with an answer's key.

    Args:
        since: when the first run began whose answers are taken, None for this run's alone.
    """
    version = installed.version("pytest-kvbench")
    more = [] if since is None else [since]
    whole = hashlib.sha256(canonical([version, prepared.experiment.snapshot(), *more]))
    for _, request in planned:
        whole.update(request.key.encode())
    for row in rows:
        came = row.outcome
        scored = (came.key, came.score, came.em, came.label, came.failure, came.message)
        whole.update(canonical([*scored, row.proof, row.cluster, came.parts]))
    return whole.hexdigest()[:16]


def controls_used(planned: Sequence[tuple[Cell, Request]], rows: Observations) -> list[ControlUse]:
    """The shared control of every cell group, and the answers that it is made of."""
    origins = {row.outcome.key: row.outcome.origin for row in rows}
    used: dict[CellGroup, ControlUse] = {}
    for cell, request in planned:
        if not cell.is_control or request.is_repeat:
            continue
        group = CellGroup.of(cell)
        name = f"{control_key(request.arm)}/{group.control_id}"
        counts = used.setdefault(
            group,
            {
                "task": group.task,
                "bin": group.bin,
                "variant": group.variant,
                "control": name,
                "produced": 0,
                "reused": 0,
            },
        )
        origin = origins.get(request.key)
        counts["produced"] += origin == "engine"
        counts["reused"] += origin == "shared-control"
    return list(used.values())
