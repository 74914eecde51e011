"""The pytest plugin, and the only place that imports pytest.

    options      what the command line says, read once
    collection   the marker -> items; errors of the user's as two lines
    runtime      measures cells: one per process, made by the first cell
    measured     an experiment meanwhile: its pool, its store, what was started
    verdict      what a test body holds: a measured cell, its control, their comparison
    controller   at the end: analysis, report, summary, exit status
    progress     meanwhile: the line that says how far the run is
    properties   an item's verdict in JUnit XML
    hookspecs    what a conftest may implement
    scheduling   keeps cell groups on one worker

    settings     what the project's pyproject.toml says in place of the command line
    scope        how a worker says which items belong together
    planning     what --kvbench-plan prints

This module only declares; the heavy ones are imported when the first kvbench item is collected.
"""

from __future__ import annotations

import os
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvbench.files import is_unconfirmed
from pytest_kvbench.hints import command
from pytest_kvbench.plugin.options import MARK, add_options, begin
from pytest_kvbench.plugin.settings import add_settings, take_settings
from pytest_kvbench.processes import without_collector

if TYPE_CHECKING:
    from xdist.scheduler import Scheduling
    from xdist.workermanage import WorkerController

    from pytest_kvbench.plugin.arm import JudgedArm
    from pytest_kvbench.plugin.runtime import Engines, Runtime
    from pytest_kvbench.plugin.verdict import Controls, MeasuredCell

RUN_KEY = pytest.StashKey[tuple[str, int]]()
"""The run's id and the pid of its controller: the same in all processes of one run."""

_HERE = f"{Path(__file__).parents[1]}{os.sep}"

_MARKER_HELP = (
    "kvbench(NAME.yaml, **keys): run this test once per cell of an experiment "
    "(task x bin x budget x policy); keys are those of the YAML and win over it"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)
    add_settings(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks of our own."""
    from pytest_kvbench.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Apply the options that must take effect before workers start."""
    if hasattr(config, "workerinput"):
        # Every worker, a replacement in mid-run too, would empty the cache again.
        config.option.cacheclear = False
    elif config.option.kvbench_plan and hasattr(config.option, "numprocesses"):
        config.option.numprocesses, config.option.dist, config.option.tx = 0, "no", []


def pytest_configure(config: pytest.Config) -> None:
    """Name the run, declare the marker, register the role of this process."""
    config.addinivalue_line("markers", _MARKER_HELP)
    worker = getattr(config, "workerinput", None)
    run_id, owner = worker["kvbench_run"] if worker else (uuid.uuid4().hex[:12], os.getpid())
    config.stash[RUN_KEY] = (run_id, owner)
    take_settings(config)
    begin(config, worker["kvbench_ends_at"] if worker else None)
    if worker is None:
        from pytest_kvbench.plugin.controller import Controller

        config.pluginmanager.register(Controller(config, run_id), Controller.NAME)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Tell a worker which run it belongs to, and whether anybody looks at verdicts meanwhile."""
    from pytest_kvbench.plugin.properties import verdicts_wanted

    node.workerinput["kvbench_run"] = node.config.stash[RUN_KEY]
    node.workerinput["kvbench_ends_at"] = node.config.option.kvbench_ends_at
    node.workerinput["kvbench_verdicts"] = verdicts_wanted(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Keep cell groups on one worker, unless the user chose another distribution."""
    if config.getoption("dist") != "load":
        return None
    from pytest_kvbench.plugin.scheduling import ByContentScheduling

    return ByContentScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Load no conftest out of an archive where pytest is told to begin there, or is started there.

    Raises:
        pytest.UsageError: naming the group.
    """
    here = early_config.invocation_params.dir
    starts = early_config.known_args_namespace.file_or_dir or [""]
    for start in (here / given.partition("::")[0] for given in starts):
        if restored := next(filter(is_unconfirmed, (start, *start.parents)), None):
            raise pytest.UsageError(
                f"kvbench: {restored} was restored from an archive and is not confirmed: "
                f"no test or conftest in it is run\nread it, then: {command('trust', restored)}"
            )


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore tests and conftests in folders restored from an archive and not confirmed."""
    return True if is_unconfirmed(collection_path) else None


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Refuse an experiment that no test uses, once all are collected."""
    if config.option.kvbench_experiment:
        from pytest_kvbench.plugin.collection import refuse_unused

        refuse_unused(config, session, items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the items of a marked test."""
    mark = metafunc.definition.get_closest_marker(MARK)
    if mark is None:
        return
    with without_collector():
        from pytest_kvbench.plugin.collection import generate

        _runtime(metafunc.config)
        generate(metafunc, mark)


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Show of a warning of ours its words, and no line of our code."""
    if warning_message.filename.startswith(_HERE):
        warning_message.filename, warning_message.line = MARK, ""


def _runtime(config: pytest.Config) -> Runtime:
    """The session's, made when it is first needed."""
    from pytest_kvbench.plugin.runtime import Runtime

    if not config.pluginmanager.has_plugin(Runtime.NAME):
        config.pluginmanager.register(Runtime(config, *config.stash[RUN_KEY]), Runtime.NAME)
    return Runtime.of(config)


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> MeasuredCell | JudgedArm:
    """The cell or arm of this item, measured: what cannot be is an error, not a failure."""
    from pytest_kvbench.plugin.properties import properties_of, verdicts_wanted
    from pytest_kvbench.plugin.runtime import Runtime

    runtime = Runtime.of(request.config)
    measured = runtime.cell(request.node)
    if verdicts_wanted(request.config):
        request.node.user_properties += properties_of(measured.compare(runtime.controls))
    return measured


@pytest.fixture(scope="session")
def control(request: pytest.FixtureRequest) -> Controls:
    """Finds the shared control of any cell: `control.of(cell)`."""
    from pytest_kvbench.plugin.runtime import Runtime

    return Runtime.of(request.config).controls


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Engines:
    """Says who answered a cell, `engine.of(cell)`, and answers: `engine.generate(messages)`."""
    return _runtime(request.config).engines
