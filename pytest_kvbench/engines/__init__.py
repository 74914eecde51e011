"""Who answers: engines, found by the name an experiment gives."""

from __future__ import annotations

from pathlib import Path

from pytest_kvbench.engines.base import (
    Capabilities,
    Engine,
    EngineSource,
    proof_of,
)
from pytest_kvbench.engines.embedded import EmbeddedSource
from pytest_kvbench.engines.launch import stop_all
from pytest_kvbench.settings import EngineSettings

__all__ = [
    "Capabilities",
    "Engine",
    "EngineSource",
    "engine_source",
    "proof_of",
    "stop_all",
]


def engine_source(
    settings: EngineSettings, *, run_id: str, owner_pid: int, log: Path, share: int = 1
) -> EngineSource:
    """The engine an experiment names.

    Args:
        settings: the experiment's `engine` section.
        run_id: processes of the same run share the servers they start.
        owner_pid: servers end when this process does.
        log: where a started server's output goes.
        share: how many processes of this run share `engine.concurrency`.
    """
    concurrency = max(1, -(-settings.concurrency // share))
    return EmbeddedSource(
        settings, run_id=run_id, owner_pid=owner_pid, log=log, concurrency=concurrency
    )
