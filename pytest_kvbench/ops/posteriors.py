"""Posteriors as content-addressed folders.

    posteriors/post_<sampler>_<sha1>/trace.nc        the draws (ArviZ), without what tells the time
                                     analysis.json   what is said, diagnostics, inputs
                                     meta.json       key figures, and digests of all of it
                                     timings.json    how long it took
                                     diagnostics/    trace.png, rank.png, forest.png and, by
                                                     policy, running_*.png

The name is a hash of what goes in: targets and pairs, the sampler, its seed, the margin. Same
inputs, same folder; a folder that is there is not made again, unless it is damaged (see `sealed`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_kvbench import installed
from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.files import make_folder, replace_json, replace_text
from pytest_kvbench.ops import doubts
from pytest_kvbench.ops.paired import ArmDoubt, GroupPairs, paired_curves, read_pairs
from pytest_kvbench.ops.posterior_plots import draw
from pytest_kvbench.ops.run_names import named_runs
from pytest_kvbench.ops.run_rows import Entry
from pytest_kvbench.ops.sealed import ANALYSIS, META, TIMINGS, damage, sealed
from pytest_kvbench.ops.target_store import RunStore, posterior_id, text_of
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
        DoubtRow,
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
        doubts: of the arms about which there are some; those left out are in no curve.
    """

    model: str
    targets: tuple[str, ...]
    pairs: Sequence[Pairs]
    doubts: tuple[ArmDoubt, ...] = ()


def inputs_of(groups: Iterable[Prepared]) -> Inputs:
    """All measured pairs of groups of one model, each example once.

    Raises:
        MissingPrerequisiteError: a group has no answer, one has no score, or no cell was measured.
    """
    return inputs_from([read_pairs(prepared) for prepared in groups])


def inputs_from(read: Sequence[GroupPairs]) -> Inputs:
    """As `inputs_of`, of groups that were read."""
    found = paired_curves(read)
    if not found.pairs:
        raise MissingPrerequisiteError(
            "no group has a measured cell below budget 1.0", _mend(found.doubts)
        )
    targets = {run.target for group in read for run in named_runs(group.prepared)[0]}
    doubtful = tuple(arm for arm in found.doubts if arm.doubt)
    model = read[0].prepared.experiment.engine.model
    return Inputs(model, tuple(sorted(targets)), found.pairs, doubtful)


def _mend(arms: Iterable[ArmDoubt]) -> str:
    named = ((f"{arm.policy} {arm.budget:g} on {arm.task}", arm.doubt) for arm in arms)
    return "; ".join(doubts.notes(named)) or "run one: kvbench run FILE.yaml"


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
    known = folder.exists() and not damage(folder)
    if not known:
        began = time.perf_counter()
        fitted = fit(inputs.pairs, how, margin, progress=progress)
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder, lambda room: _write(fitted, config, margin, room, began, folder.name))
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
            {
                **_key(p.key),
                "budgets": list(p.budgets),
                "pairs": len(p.control),
                "tokens": p.length,
                "sha": _sha(p),
            }
            for p in sorted(inputs.pairs, key=lambda p: (p.key.policy, p.key.base))
        ],
        "doubts": [cast("DoubtRow", arm._asdict()) for arm in inputs.doubts],
        "sampling": cast("SamplingRow", asdict(how)),
        "margin": margin,
        "versions": {name: installed.version_if_any(name) or "" for name in PACKAGES},
    }


def _key(key: CurveKey) -> CurveRow:
    return cast("CurveRow", asdict(key))


def _sha(p: Pairs) -> str:
    arrays = (p.control, p.treated, p.cluster)
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


def _write(
    fitted: Fitted, config: Config, margin: float, room: Path, began: float, name: str
) -> None:
    if fitted.posterior is not None:
        fitted.posterior.trace.to_netcdf(str(room / "trace.nc"))
        draw(fitted.posterior, margin, room / "diagnostics")
    analysis = _analysis(fitted, config)
    replace_json(room / ANALYSIS, analysis)
    files = [file for file in sorted(room.rglob("*")) if file.is_file()]
    content = {file.relative_to(room).as_posix(): file.read_bytes() for file in files}
    replace_text(room / META, text_of(sealed(entry_of(name, analysis), content)))
    replace_json(room / TIMINGS, {"wall_s": time.perf_counter() - began})


def entry_of(name: str, analysis: Analysis) -> Entry:
    """What the catalog says of a posterior: its inputs, and whether it may be believed."""
    config, checks = analysis["config"], analysis["diagnostics"] or {}
    return {
        "kind": "posterior",
        "id": name,
        "target": ",".join(config["targets"]),
        "config": config,
        "dims": {
            "model": config["model"],
            "tasks": ",".join(sorted({curve["task"] for curve in config["curves"]})),
            "seed": config["sampling"]["seed"],
            "policy": config["sampling"]["sampler"],
            "margin": config["margin"],
        },
        "metrics": {
            "n": sum(curve["pairs"] for curve in config["curves"]),
            "ess": checks.get("ess_bulk"),
            "rhat": checks.get("r_hat"),
        },
    }


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
