"""From a marker to items. Needs no data and no model to collect; to run, it checks the model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_kvbench.errors import ExperimentError, KvbenchError
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import certify, foresee
from pytest_kvbench.pipeline.declared import load_stages
from pytest_kvbench.plugin.declaration import declarations
from pytest_kvbench.plugin.options import ERROR_PREFIX, RUNTIME, Options

USES_EXPERIMENT = pytest.StashKey[bool]()
"""Whether a test takes what --kvbench-experiment names."""


def refuse_unused(config: pytest.Config, session: pytest.Session, items: list[pytest.Item]) -> None:
    """Refuse --kvbench-experiment where every test that was collected has one of its own.

    In a worker nothing is left to run.

    Raises:
        pytest.UsageError: naming what would use it.
    """
    if config.stash.get(USES_EXPERIMENT, False) or session.testsfailed:
        return
    mistake = (
        f"--kvbench-experiment {config.option.kvbench_experiment}: no test here uses it: each "
        "names its own\nvalid: a test marked @pytest.mark.kvbench without a name, as in "
        "evals/test_experiment.py"
    )
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(mistake)
    # What a worker raises here is lost; an error of collection reaches the controller.
    report = pytest.CollectReport("", "failed", f"{ERROR_PREFIX}{mistake}", [])
    config.hook.pytest_collectreport(report=report)
    items.clear()


def generate(metafunc: pytest.Metafunc, mark: pytest.Mark) -> None:
    """Parametrize a marked test over the cells of its experiment.

    Raises:
        Collector.CollectError: the experiment is wrong; two lines, no traceback.
    """
    try:
        options = Options.of(metafunc.config)
        stages = _declared(metafunc, mark, options)
        if not stages:
            reason = "no experiment: give --kvbench-experiment FILE"
            skipped = pytest.param(None, marks=pytest.mark.skip(reason=reason))
            metafunc.parametrize("cell", [skipped], indirect=True, ids=["none"])
            return
        for declared in stages:
            certify.check(declared, options.tasks)
            if metafunc.config.option.collectonly:
                _foresee(declared.experiment)
            elif not options.plan:
                _check_engine(declared, metafunc.config)
                _check_baseline(declared.experiment.group, options)
        parameters = [one for declared in stages for one in declarations(declared)]
    except KvbenchError as error:
        _refuse(error)
    metafunc.parametrize("cell", parameters, indirect=True, ids=[p.item_id for p in parameters])


def _declared(
    metafunc: pytest.Metafunc, mark: pytest.Mark, options: Options
) -> tuple[Declared, ...]:
    where = metafunc.definition.nodeid
    if "cell" not in metafunc.fixturenames:
        raise ExperimentError(
            f"{where}: a test marked kvbench needs the argument `cell`",
            "valid: def test_quality(cell, control): cell.compare(control).check()",
        )
    if len(mark.args) > 1 or not all(isinstance(arg, str) for arg in mark.args):
        raise ExperimentError(
            f"{where}: the marker takes one file name, got {list(mark.args)}",
            f"valid: kvbench('NAME.yaml', {', '.join(Experiment.model_fields)})",
        )
    if not mark.args and not mark.kwargs:
        if options.experiment is None:
            return ()
        metafunc.config.stash[USES_EXPERIMENT] = True
        return load_stages(options.experiment, overrides=options.overrides)
    file = _find(mark.args[0], metafunc) if mark.args else None
    return load_stages(file, inline=mark.kwargs, overrides=options.overrides, inline_source=where)


def _find(name: str, metafunc: pytest.Metafunc) -> Path:
    """A YAML file beside the test, in `experiments/` beside it, or below the root."""
    here = metafunc.definition.path.parent
    for folder in (here, here / "experiments", metafunc.config.rootpath):
        if (folder / name).is_file():
            return folder / name
    return here / "experiments" / name  # reading it explains what is there


def _foresee(experiment: Experiment) -> None:
    """Warn of what the plan can never decide; a run says so itself, once its data are there."""
    for line in foresee.shortcomings(experiment):
        warnings.warn(f"group {experiment.group}: {line}", stacklevel=2)


def _check_engine(declared: Declared, config: pytest.Config) -> None:
    runtime: Any = config.pluginmanager.get_plugin(RUNTIME)
    runtime.check_engine(declared)


def _check_baseline(group: str, options: Options) -> None:
    """Read what will be compared with, while nothing is asked."""
    if options.compare is not None:
        # Late: most sessions compare nothing.
        from pytest_kvbench.pipeline.baseline import find_baseline

        find_baseline(options.reports, options.compare, group)


def _refuse(error: KvbenchError) -> NoReturn:
    raise pytest.Collector.CollectError(f"{ERROR_PREFIX}{error}") from None
