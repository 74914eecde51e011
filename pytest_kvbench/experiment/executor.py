"""The section `executor`: where requests are asked from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from pytest_kvbench.experiment.section import Section, about


def _clock(value: Any) -> Any:
    """What YAML makes of an unquoted 10:00:00 is a number of seconds."""
    if isinstance(value, int) and value > 0:
        return f"{value // 3600:02}:{value // 60 % 60:02}:{value % 60:02}"
    return value


class ExecutorSettings(Section):
    """Where requests are asked from: this machine, or the workers of a Parsl executor.

    Decides no answer, so it is no part of a group's identity: `Experiment.snapshot` leaves it out.
    """

    name: Literal["local", "parsl"] = about(
        "local (this process) or parsl (workers that Parsl starts)", default="local"
    )
    preset: Literal["local", "slurm"] = about(
        "local or slurm, where no config is named", default="local"
    )
    config: str | None = about(
        "a Python file that defines `config`, a parsl.Config; it takes the preset's place",
        default=None,
    )
    workers: int = about("worker processes on each node, at least 1", default=2, ge=1, le=1_000)
    nodes: int = about("nodes of a block, at least 1", default=1, ge=1, le=10_000)
    blocks: int = about("blocks (jobs) at most, at least 1", default=1, ge=1, le=10_000)
    walltime: Annotated[str, BeforeValidator(_clock)] = about(
        "how long a Slurm job may last, HH:MM:SS",
        default="01:00:00",
        pattern=r"^\d{1,3}:[0-5]\d:[0-5]\d$",
    )
    partition: str | None = about("a Slurm partition", default=None)
    account: str | None = about("a Slurm account", default=None)
    scheduler_options: str = about(
        "more #SBATCH lines, as in '#SBATCH --gpus-per-node=1'", default=""
    )
    address: str | None = about(
        "where workers reach this machine; unset: the address of its way out", default=None
    )
    worker_init: str = about(
        "shell lines before a worker starts, as in 'module load cuda'", default=""
    )
