"""Where requests are asked from, if not from here: Parsl's workers, on this machine or a cluster.

    check      refuses at once what can never run
    engine     an `Engine` that hands requests out in chunks and takes lost ones back
    flow       Parsl itself: the only module that starts it
    presets    Parsl's configuration for a machine, for Slurm, or a user's file
    worker     the other end: one engine per worker process
    guard      nothing that was started here outlives the run

Workers answer; the controller alone stores. Parsl is imported where it is used, never before.
"""

from __future__ import annotations

from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.executor import ExecutorSettings


def check(executor: ExecutorSettings, engine: EngineSettings, *, workers: bool = False) -> None:
    """Refuse at once what can never run.

    Args:
        executor: the experiment's `executor` section.
        engine: its `engine` section.
        workers: whether this is a worker of pytest-xdist.

    Raises:
        UsageError: Parsl or a file is not there, or two kinds of workers are asked for.
    """
    if executor.name == "local" or engine.mode == "batch":
        return
    if workers:
        raise UsageError(
            "-n: executor.name: parsl has workers of its own, and one process that hands out",
            "run it with -n 0, and say executor.workers, nodes and blocks instead",
        )
    from pytest_kvbench.executors.presets import check_config

    check_config(executor)
