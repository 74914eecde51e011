"""Parsl's configuration: for this machine, for Slurm, or from a user's file."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.executors import guard
from pytest_kvbench.experiment.executor import ExecutorSettings

if TYPE_CHECKING:
    from parsl.config import Config

_HTEX = "parsl.executors.high_throughput"
_LABEL = "kvbench"
_MOST_PLACES = 1024

_BEAT_HERE_S, _LOST_HERE_S = 2, 10
"""A manager on this machine is taken for lost after so long; Parsl's own 120 s are for networks."""
_BEAT_THERE_S, _LOST_THERE_S = 15, 60
_BEATS_TO_REPLACE = 3
"""A manager that lacks a process for longer has lost more than a worker; it does so within one."""


def config_of(settings: ExecutorSettings, folder: Path) -> Config:
    """A fresh configuration, good for one start.

    Args:
        settings: the experiment's `executor` section.
        folder: where Parsl keeps what it writes.

    Raises:
        UsageError: the file is not there or not what it should be; an extra is missing.
    """
    if importlib.util.find_spec("parsl") is None:
        raise UsageError(
            "executor.name: parsl needs parsl, which is not installed",
            'install it: pip install "pytest-kvbench[parsl]"',
        )
    if settings.config is None:
        config = _PRESETS[settings.preset](settings, folder)
    else:
        config = _from_file(Path(settings.config).expanduser())
        _guard_local(config, folder)
        if config.initialize_logging is True:  # the default; a LogConfig is the user's wish
            config.initialize_logging = False
    config.run_dir = str(folder)
    return config


def check_config(settings: ExecutorSettings) -> None:
    """Refuse a file or a preset that cannot be used here.

    Raises:
        UsageError: as `config_of`.
    """
    config_of(settings, Path(os.devnull))
    if settings.config is None and settings.preset == "slurm" and shutil.which("sbatch") is None:
        raise UsageError(
            "executor.preset: slurm needs sbatch, which is not on this machine",
            "start it on a login node, or use preset: local",
        )


def places(config: Config) -> int:
    """How many chunks the workers of a configuration can have at once, at its largest."""
    return int(max(1, min(_MOST_PLACES, sum(map(_places_of, config.executors)))))


def _places_of(executor: Any) -> float:
    provider = getattr(executor, "provider", None)
    if provider is None:
        return _threads(executor)
    return _per_node(executor) * float(provider.nodes_per_block) * float(provider.max_blocks)


def workers_of_node(config: Config) -> int:
    """How many workers share what one of them starts on its node: the most of any executor."""
    return int(max(map(_per_node, config.executors)))


def _per_node(executor: Any) -> float:
    return float(getattr(executor, "workers_per_node", None) or _threads(executor))


def _threads(executor: Any) -> float:
    """The places of an executor that has no nodes."""
    return float(getattr(executor, "max_threads", 1))


# -- presets -------------------------------------------------------------------------------------


def _local(settings: ExecutorSettings, folder: Path) -> Config:
    from parsl.providers import LocalProvider

    provider = LocalProvider(  # type: ignore[no-untyped-call]  # theirs
        nodes_per_block=1,  # there is one
        init_blocks=settings.blocks,
        max_blocks=settings.blocks,
        worker_init=settings.worker_init,
    )
    return _config(
        settings,
        folder,
        provider,
        period_s=1,
        address=settings.address or "127.0.0.1",
        launch_cmd=_guarded_manager(_BEAT_HERE_S, watch_pid=os.getpid()),
        heartbeat_period=_BEAT_HERE_S,
        heartbeat_threshold=_LOST_HERE_S,
    )


def _slurm(settings: ExecutorSettings, folder: Path) -> Config:
    from parsl.launchers import SrunLauncher
    from parsl.providers import SlurmProvider

    provider = SlurmProvider(
        partition=settings.partition,
        account=settings.account,
        nodes_per_block=settings.nodes,
        max_blocks=settings.blocks,
        walltime=settings.walltime,
        scheduler_options=settings.scheduler_options,
        worker_init=settings.worker_init,
        launcher=SrunLauncher(),
    )
    # The same interpreter: a cluster's file system is shared.
    return _config(settings, folder, provider, launch_cmd=_guarded_manager(_BEAT_THERE_S))


_PRESETS: Mapping[str, Callable[[ExecutorSettings, Path], Config]] = MappingProxyType(
    {"local": _local, "slurm": _slurm}
)


def _config(
    settings: ExecutorSettings, folder: Path, provider: Any, *, period_s: int = 5, **more: Any
) -> Config:
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.jobs.error_handlers import windowed_error_handler

    there = {
        # Unset, Parsl would ask a server in the Internet what our address is.
        "address": settings.address or _address(),
        "heartbeat_period": _BEAT_THERE_S,
        "heartbeat_threshold": _LOST_THERE_S,
    }
    executor = HighThroughputExecutor(
        label=_LABEL,
        provider=provider,
        cores_per_worker=1e-6,  # as many as asked for: they wait for a server
        max_workers_per_node=settings.workers,
        interchange_launch_cmd=_guarded_interchange(folder),
        # One lost block is replaced; three in a row never came up at all.
        block_error_handler=windowed_error_handler,
        **{**there, **more},
    )
    return Config(executors=[executor], strategy_period=period_s, initialize_logging=False)


def _address() -> str:
    """This machine's address towards others; none of them is asked."""
    from parsl.addresses import address_by_hostname, address_by_route

    try:
        return address_by_route()
    except OSError:  # no route out
        return address_by_hostname()


# -- a user's file -------------------------------------------------------------------------------


def _from_file(file: Path) -> Config:
    from parsl.config import Config

    if not file.is_file():
        raise UsageError(
            f"executor.config: {file}: there is no such file",
            "name a Python file that defines config = parsl.Config(...)",
        )
    try:
        found = runpy.run_path(str(file)).get("config")
    except Exception as error:
        raise UsageError(
            f"executor.config: {file}: {type(error).__name__}: {error}",
            f"it must run by itself: python {file}",
        ) from error
    if not isinstance(found, Config):
        raise UsageError(
            f"executor.config: {file}: config is {type(found).__name__}, not parsl.Config",
            "define it there: config = parsl.Config(executors=[...])",
        )
    return found


def _guard_local(config: Config, folder: Path) -> None:
    """Guard what runs on this machine, where the user says nothing else about its start.

    Its scripts are found without the PATH of an activated environment then, too.
    """
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput import executor as htex
    from parsl.providers import LocalProvider

    for executor in config.executors:
        if isinstance(executor, HighThroughputExecutor):
            if executor.interchange_launch_cmd == htex.DEFAULT_INTERCHANGE_LAUNCH_CMD:
                executor.interchange_launch_cmd = _guarded_interchange(folder)
            here = isinstance(executor.provider, LocalProvider)
            if here and executor.launch_cmd == htex.DEFAULT_LAUNCH_CMD:
                beat_s = executor.heartbeat_period
                executor.launch_cmd = _guarded_manager(beat_s, watch_pid=os.getpid())


def _guarded_interchange(folder: Path) -> list[str]:
    log = folder / "interchange.out"
    return guard.command_line(log, f"{_HTEX}.interchange", watch_pid=os.getpid())


def _guarded_manager(beat_s: float, watch_pid: int | None = None) -> str:
    """Parsl's own command line of a manager, with a guard; Parsl fills in what is in braces.

    `beat_s`: how often a manager looks after its workers.
    """
    from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD

    _, _, arguments = DEFAULT_LAUNCH_CMD.partition(" ")
    log = Path("{logdir}/manager.out")
    module = f"{_HTEX}.process_worker_pool"
    words = guard.command_line(
        log, module, watch_pid=watch_pid, replaces_s=_BEATS_TO_REPLACE * beat_s
    )
    return f"{shlex.join(words)} {arguments}"
