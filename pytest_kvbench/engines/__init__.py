"""Who answers: engines, found by the name an experiment gives.

engine_source ─ embedded ─ server/          the embedded server, which alone sweeps
              └ openai ─┬─ servers ─ kinds/ any OpenAI-compatible server, one per arm
                        └─ fleet            which of them are up
arms, kinds, fingerprint                    what a plan needs to know; ask nobody
body, completion                            requests and replies as JSON
client, sse, probe, launch, watch           HTTP and processes
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.engines.base import (
    Capabilities,
    Engine,
    EngineSource,
    proof_of,
)
from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.engines.launch import stop_all
from pytest_kvbench.engines.places import Crowd
from pytest_kvbench.files import run_folder

if TYPE_CHECKING:
    from pytest_kvbench.experiment.engine import EngineSettings
    from pytest_kvbench.experiment.schema import KV

__all__ = [
    "Capabilities",
    "Engine",
    "EngineSource",
    "engine_source",
    "proof_of",
    "stop_all",
]


def engine_source(
    settings: EngineSettings,
    kv: KV,
    *,
    run_id: str,
    owner_pid: int,
    log: Path,
    share: int = 1,
    meet: bool = False,
) -> EngineSource:
    """The engine an experiment names.

    Args:
        settings: the experiment's `engine` section.
        kv: its `kv` section, which says what servers there are.
        run_id: processes of the same run share the servers they start.
        owner_pid: servers end when this process does.
        log: where a started server's output goes.
        share: how many processes of this run share `engine.concurrency` and the rates.
        meet: whether they are on this machine and have this `run_id`. Then the sum of them keeps
            to both exactly; else each keeps to its part.
    """
    crowd = Crowd(share, run_folder(run_id) if meet else None)
    # Late: a server's process and a plan import this package too, and need no client.
    if kind_of(settings).one_server:
        from pytest_kvbench.engines.embedded import EmbeddedSource

        return EmbeddedSource(
            settings, kv, run_id=run_id, owner_pid=owner_pid, log=log, crowd=crowd
        )
    from pytest_kvbench.engines.openai import OpenAISource

    return OpenAISource(settings, kv, run_id=run_id, owner_pid=owner_pid, log=log, crowd=crowd)
