"""What the command line says, read once into a frozen object."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import time
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvbench.files import BASELINES
from pytest_kvbench.hints import SPANS, seconds_of

if TYPE_CHECKING:
    from pytest_kvbench.experiment.load import Override
    from pytest_kvbench.tasks.registry import TaskFactory

MARK = "kvbench"

CONTROLLER = "kvbench-controller"
RUNTIME = "kvbench-runtime"
"""Names by which the two roles find each other."""

ERROR_PREFIX = "kvbench: "
"""How the controller knows an error of collection that is the user's and has been explained."""

NOT_LOADED = pytest.StashKey[Any]()
"""By name, the tasks of conftests that only workers have loaded."""

_REPORT_IN_GROUP = ""
_SHORTCUTS = {
    "engine": "engine.name",
    "model": "engine.model",
    "base_url": "engine.base_url",
    "executor": "executor.name",
}


def add_options(parser: pytest.Parser) -> None:
    """Declare `--kvbench-*`."""
    group = parser.getgroup("kvbench", "quality under a smaller KV cache")
    group.addoption(
        "--kvbench-report",
        nargs="?",
        const=_REPORT_IN_GROUP,
        metavar="DIR",
        help="Write report.md, report.html and plots (default: into the group's folder).",
    )
    group.addoption(
        "--kvbench-figures",
        metavar="FORMATS",
        help="Figures for a paper, as pdf,svg,png, and their numbers, beside the report.",
    )
    group.addoption(
        "--kvbench-experiment",
        metavar="FILE",
        help="The experiment of tests marked kvbench without a name of their own.",
    )
    group.addoption(
        "--kvbench-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Override a key of every experiment, as in bins.per_bin=4. Repeatable.",
    )
    group.addoption("--kvbench-engine", metavar="NAME", help="Override engine.name.")
    group.addoption("--kvbench-model", metavar="MODEL", help="Override engine.model.")
    group.addoption("--kvbench-base-url", metavar="URL", help="Override engine.base_url.")
    group.addoption("--kvbench-executor", metavar="NAME", help="Override executor.name.")
    group.addoption(
        "--kvbench-plan",
        action="store_true",
        help="Print cells, requests, tokens and time; run nothing.",
    )
    group.addoption(
        "--kvbench-fresh",
        action="store_true",
        help="Ask everything anew, as a new trial beside what is stored.",
    )
    group.addoption(
        "--kvbench-force",
        action="store_true",
        help="Go on where the stored group was made by a different experiment.",
    )
    group.addoption(
        "--kvbench-save",
        metavar="NAME",
        help="Save the results of this run's groups as a baseline: a name, or a folder's path as "
        "./baselines, with a file a group for version control.",
    )
    group.addoption(
        "--kvbench-compare",
        metavar="NAME",
        help="Compare this run's groups with a baseline, by name or path; a regression is exit "
        "status 1.",
    )
    group.addoption(
        "--kvbench-deadline",
        metavar="SPAN",
        type=_span,
        help="Ask no more after so long: 5m. What is there is judged; the exit status is 10 where "
        "not all was asked.",
    )
    group.addoption(
        "--kvbench-dir",
        metavar="DIR",
        help="Where groups are kept (default: $KVBENCH_DIR or reports).",
    )


def _formats(given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    from pytest_kvbench.report.formats import formats_of

    return formats_of(given, "--kvbench-figures")


@dataclass(frozen=True)
class Options:
    """The options of one session."""

    reports: Path
    report: bool
    report_folder: Path | None
    figures: tuple[str, ...]
    experiment: Path | None
    overrides: tuple[Override, ...]
    plan: bool
    fresh: bool
    force: bool
    save: str | None
    compare: str | None
    ends_at: float
    command: str
    tasks: Mapping[str, TaskFactory]

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Read the options of a session.

        Raises:
            ExperimentError: an override is not KEY=VALUE.
            UsageError: a format of figures that there is not.
        """
        from pytest_kvbench.experiment.load import Override

        given = config.option
        shortcuts = (
            Override(key, value, f"--kvbench-{name.replace('_', '-')} {value}")
            for name, key in _SHORTCUTS.items()
            if (value := getattr(given, f"kvbench_{name}")) is not None
        )
        here = config.invocation_params.dir
        return cls(
            reports=_below(config.rootpath, given.kvbench_dir),
            report=(given.kvbench_report, given.kvbench_figures) != (None, None),
            report_folder=_below(here, given.kvbench_report) if given.kvbench_report else None,
            figures=_formats(given.kvbench_figures),
            experiment=_below(here, given.kvbench_experiment) if given.kvbench_experiment else None,
            overrides=(*map(Override.parse, given.kvbench_set), *shortcuts),
            plan=given.kvbench_plan,
            fresh=given.kvbench_fresh,
            force=given.kvbench_force,
            save=_baseline(here, given.kvbench_save),
            compare=_baseline(here, given.kvbench_compare),
            ends_at=given.kvbench_ends_at,
            command=_command(config),
            tasks=tasks_of(config),
        )


def begin(config: pytest.Config, ends_at: float | None) -> None:
    """Note when the run must stop asking; in a worker, when its controller says."""
    span_s = config.option.kvbench_deadline
    ours = math.inf if span_s is None else time.time() + span_s
    config.option.kvbench_ends_at = ours if ends_at is None else ends_at


def _span(text: str) -> float:
    found = seconds_of(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span; valid: {SPANS}")
    return found


def bring_classes(config: pytest.Config) -> None:
    """Take the names that conftests and plugins give to classes of users; the nearest wins.

    A relative file counts from the folder of the conftest that gives it.

    Raises:
        UsageError: one brings something else than classes by name.
    """
    from pytest_kvbench.engines.own import CLASSES as ENGINES
    from pytest_kvbench.errors import ExperimentError
    from pytest_kvbench.policies.own import CLASSES as POLICIES

    for classes in (POLICIES, ENGINES):
        hook = f"pytest_kvbench_{classes.plural}"
        for given_by in getattr(config.hook, hook).get_hookimpls():
            if (brought := given_by.function()) is None:
                continue
            if not isinstance(brought, Mapping):
                raise ExperimentError(
                    f"{hook} gave {brought!r}",
                    "needed: classes by name, as in {'mine': './mine.py:Mine'}",
                )
            file = getattr(given_by.plugin, "__file__", None)
            classes.bring(brought, Path(file).parent if file else config.invocation_params.dir)


def tasks_of(config: pytest.Config) -> Mapping[str, TaskFactory]:
    """The tasks of the conftests loaded by now and of other plugins; the nearest conftest wins.

    Raises:
        ExperimentError: one brings something else than tasks by name.
    """
    from pytest_kvbench.errors import ExperimentError

    bring_classes(config)
    every = config.hook.pytest_kvbench_tasks()
    for brought in every:
        if not isinstance(brought, Mapping) or not all(isinstance(name, str) for name in brought):
            raise ExperimentError(
                f"pytest_kvbench_tasks gave {brought!r}",
                "needed: tasks by name, as in {'mine/capitals': capitals}",
            )
    return ChainMap(*every, config.stash.get(NOT_LOADED, {}))


def refuse_swallowed_path(config: pytest.Config) -> None:
    """`--kvbench-report evals` takes the tests' folder for its DIR: say so.

    Raises:
        pytest.UsageError: the folder holds tests.
    """
    folder = config.option.kvbench_report
    if folder and any(Path(config.invocation_params.dir, folder).glob("test_*.py")):
        raise pytest.UsageError(
            f"--kvbench-report {folder}: {folder} holds tests and is no place for a report\n"
            f"write: pytest {folder} --kvbench-report"
        )


def refuse_unknown_baseline(config: pytest.Config) -> None:
    """Refuse a baseline that does not exist, before anything is measured.

    Raises:
        pytest.UsageError: nothing was saved under that name.
    """
    name = config.option.kvbench_compare
    if name is None:
        return
    here = config.invocation_params.dir
    reports = _below(config.rootpath, config.option.kvbench_dir)
    if "/" in name and not any(_below(here, name).glob("*.json")):
        raise pytest.UsageError(
            f"--kvbench-compare {name}: there is no baseline in that folder\n"
            f"make one: --kvbench-save {name}"
        )
    folder = reports / BASELINES
    saved = sorted(path.name for path in folder.glob("*") if path.is_dir())
    if "/" not in name and name not in saved:
        raise pytest.UsageError(
            f"--kvbench-compare {name}: there is no such baseline in {folder}\n"
            f"baselines there: {', '.join(saved) or 'none'}; make one: --kvbench-save {name}"
        )


def _baseline(here: Path, given: str | None) -> str | None:
    """A baseline's name; of a path, as seen from where pytest was started."""
    if given is None or "/" not in given:
        return given
    return f"./{os.path.relpath(_below(here, given))}"


def _below(base: Path, given: str) -> Path:
    return base / Path(given).expanduser()


def _command(config: pytest.Config) -> str:
    """How to repeat the run: `pytest ARGS`."""
    args = [str(arg) for arg in config.invocation_params.args]
    return shlex.join(["pytest", *args]) if args else Path(sys.argv[0]).name
