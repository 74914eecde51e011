"""Posteriors as content-addressed folders.

    posteriors/post_<sampler>_<sha1>/trace.nc        the draws (ArviZ), without what tells the time
                                     analysis.json   what is said, diagnostics, inputs
                                     timings.json    how long it took
                                     diagnostics/    trace.png, rank.png, forest.png and, by
                                                     policy, running_*.png

The name is a hash of what goes in: targets and pairs, the sampler, its seed, the margin. Same
inputs, same folder; a folder that is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.files import make_folder, replace_json
from pytest_kvbench.ops.paired import paired_curves
from pytest_kvbench.ops.posterior_plots import draw
from pytest_kvbench.ops.run_names import named_runs
from pytest_kvbench.ops.target_store import ANALYSIS, TIMINGS, RunStore, posterior_id
from pytest_kvbench.pipeline.group import Prepared

if TYPE_CHECKING:
    from pytest_kvbench.posterior.curves import CurveKey, Pairs
    from pytest_kvbench.posterior.draws import Sampling
    from pytest_kvbench.posterior.fit import Fitted
    from pytest_kvbench.posterior.rows import (
        Analysis,
        ComparisonRow,
        Config,
        CurveRow,
        SamplingRow,
        StatementRow,
    )

PACKAGES = ("arviz", "numba", "numpy", "nutpie", "pytest-kvbench")
"""Their versions decide the draws."""


@dataclass(frozen=True)
class Inputs:
    """What a posterior is of.

    Attributes:
        model: that of all groups.
        targets: ids of what their arms were measured on.
        pairs: a curve each.
    """

    model: str
    targets: tuple[str, ...]
    pairs: Sequence[Pairs]


def inputs_of(groups: Sequence[Prepared]) -> Inputs:
    """All measured pairs of groups of one model.

    Raises:
        MissingPrerequisiteError: a group has no answer, one has no score, or no cell was measured.
    """
    pairs = [curve for prepared in groups for curve in paired_curves(prepared)]
    if not pairs:
        raise MissingPrerequisiteError(
            "no group has a measured cell below budget 1.0", "run one: kvbench run FILE.yaml"
        )
    targets = {run.target for prepared in groups for run in named_runs(prepared)[0]}
    return Inputs(groups[0].experiment.engine.model, tuple(sorted(targets)), pairs)


@dataclass(frozen=True)
class Made:
    """A posterior's folder, what it says, and whether it was there already."""

    folder: Path
    analysis: Analysis
    known: bool


def make_posterior(
    inputs: Inputs, how: Sampling, margin: float, root: Path, *, progress: bool = False
) -> Made:
    """The posterior of these inputs, from the store where it has it.

    Args:
        inputs: with at least one curve.
        root: the store; the folder `posteriors` is made below it.

    Raises:
        MissingPrerequisiteError: the extra `bayes` is not installed.
        StoreError: the folder cannot be written.
    """
    from pytest_kvbench.posterior.fit import fit

    config = _config(inputs, how, margin)
    folder = RunStore(root).posteriors / posterior_id(how.sampler, config)
    known = folder.exists()
    if not known:
        began = time.perf_counter()
        fitted = fit(inputs.pairs, how, margin, progress=progress)
        make_folder(folder, lambda room: _write(fitted, config, margin, room, began))
    return Made(folder, _read(folder), known)


def _read(folder: Path) -> Analysis:
    found: Analysis = json.loads((folder / ANALYSIS).read_text(encoding="utf-8"))
    return found


def _config(inputs: Inputs, how: Sampling, margin: float) -> Config:
    """All that decides what is said."""
    return {
        "model": inputs.model,
        "targets": list(inputs.targets),
        "curves": [
            {**_key(p.key), "budgets": list(p.budgets), "pairs": len(p.control), "sha": _sha(p)}
            for p in sorted(inputs.pairs, key=lambda p: (p.key.policy, p.key.base))
        ],
        "sampling": cast("SamplingRow", asdict(how)),
        "margin": margin,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _key(key: CurveKey) -> CurveRow:
    return cast("CurveRow", asdict(key))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _sha(p: Pairs) -> str:
    arrays = (p.control, p.treated, p.cluster)
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


def _write(fitted: Fitted, config: Config, margin: float, room: Path, began: float) -> None:
    if fitted.posterior is not None:
        fitted.posterior.trace.to_netcdf(str(room / "trace.nc"))
        draw(fitted.posterior, margin, room / "diagnostics")
    replace_json(room / ANALYSIS, _analysis(fitted, config))
    replace_json(room / TIMINGS, {"wall_s": time.perf_counter() - began})


def _analysis(fitted: Fitted, config: Config) -> Analysis:
    return {
        "config": config,
        "not_monotone": [{**_key(key), "misfit": p} for key, p in fitted.not_monotone.items()],
        "diagnostics": asdict(fitted.diagnostics) if fitted.diagnostics else None,
        "problems": list(fitted.problems),
        "prior_sensitivity": fitted.prior_sensitivity,
        "statements": [cast("StatementRow", asdict(s)) for s in fitted.statements],
        "comparisons": [cast("ComparisonRow", asdict(c)) for c in fitted.comparisons],
    }
