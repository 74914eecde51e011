"""A posterior for real: the likelihood is what it says, planted truths are found, folders hold."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pytest_kvbench.cli import main
from pytest_kvbench.executors.flow import ParslFlow
from pytest_kvbench.executors.presets import config_of
from pytest_kvbench.experiment.executor import ExecutorSettings
from pytest_kvbench.ops.posteriors import Inputs, Made, make_posterior
from pytest_kvbench.ops.target_store import RunStore
from pytest_kvbench.ops.targets import build
from pytest_kvbench.posterior.curves import Pairs, curves
from pytest_kvbench.posterior.draws import Sampling, flat, sample
from pytest_kvbench.posterior.fit import fit
from pytest_kvbench.posterior.model import Data, model
from pytest_kvbench.posterior.shape import share_broken
from pytest_kvbench.posterior.statements import Posterior
from tests.conftest import Project
from tests.support.groups import make_group
from tests.support.mock_server import MockServer
from tests.unit.posterior.planted import BUMP, CLIFF, FLAT, LADDER, SLOPE, key, losses, planted

pytestmark = pytest.mark.model

TRUTHS = {"slope": SLOPE, "cliff": CLIFF, "flat": FLAT}
HOW = Sampling(seed=3)


def mixed() -> list[Pairs]:
    """Right or wrong and graded, two tasks, three lengths, an answer that was not measured."""
    rng = np.random.default_rng(1)
    found = [
        planted(key(policy, f"g{n}", f"t{n % 2}", 100 * (1 + n)), broken, 30, rng)
        for n in range(3)
        for policy, broken in TRUTHS.items()
    ]
    found[0].treated[3, 2] = np.nan
    graded = (p for p in found if p.key.group == "g1")
    halves = [Pairs(p.key, p.budgets, p.control / 2, p.treated / 3, p.cluster) for p in graded]
    return [*(p for p in found if p.key.group != "g1"), *halves]


def test_the_gradient_is_that_of_the_density() -> None:
    from pytest_kvbench.posterior.density import log_density

    data = model(curves(mixed()))
    z = np.random.default_rng(2).normal(size=data.size)
    found = log_density(z, data)[1]
    for at, step in enumerate(np.eye(data.size) * 1e-5):
        rise = log_density(z + step, data)[0] - log_density(z - step, data)[0]
        assert found[at] == pytest.approx(rise / 2e-5, rel=1e-4, abs=1e-4)


def test_flips_that_no_policy_causes_are_losses_of_graded_scores_too() -> None:
    from pytest_kvbench.posterior.density import log_density

    graded = [p for p in mixed() if p.key.group == "g1"]
    data = model(curves(graded))
    likely = np.zeros(data.size)
    likely[10 + data.bases] = 1  # f1 of the only examples, whose prior is a standard normal
    difference = log_density(likely, data)[0] - log_density(np.zeros(data.size), data)[0]
    assert abs(difference + 0.5) > 0.01


def test_the_states_of_an_answer_are_summed_out_exactly() -> None:
    from pytest_kvbench.posterior.density import log_density, natural

    whole = planted(key(), SLOPE, 12, np.random.default_rng(4))
    pairs = Pairs(whole.key, LADDER[:3], whole.control, whole.treated[:, :3], whole.cluster)
    data = model(curves([pairs]))
    z = np.random.default_rng(5).normal(size=data.size)
    nothing = data._replace(first=data.first * 0)
    found = log_density(z, data)[0] - log_density(z, nothing)[0]
    n = natural(z, data)
    broken = share_broken(data.octaves[0], n.mu[0], n.s[0], n.depth[0])
    scores = zip(pairs.control == 1, pairs.treated == 1, strict=True)
    each = [_likelihood(c, o, broken, n) for c, o in scores]
    assert found == pytest.approx(np.log(each).sum())


def _likelihood(control: bool, outcome: np.ndarray, broken: np.ndarray, n: Data) -> float:
    """Every way of breaking, one by one."""
    total, flip = 0.0, (n.f1 if control else n.f0)[0]
    for states in itertools.product((False, True), repeat=3):
        says = 1.0
        for state, is_right in zip(states, outcome, strict=True):
            of_broken = n.h[0] if is_right else 1 - n.h[0]
            says *= of_broken if state else (1 - flip if is_right == control else flip)
        anew = np.where(states, broken, 1 - broken).prod()
        edges = np.diff([0, *broken, 1])
        own = edges[3 - sum(states)] if list(states) == sorted(states) else 0
        total += (n.rho * own + (1 - n.rho) * anew) * says
    return total


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_posterior(of(groups()), HOW, 0.10, tmp_path_factory.mktemp("runs"))


def of(pairs: list[Pairs]) -> Inputs:
    return Inputs("m", ("tgt_1",), pairs)


def groups() -> list[Pairs]:
    """Twelve curves: three groups of three that fall and of one that rises again."""
    rng = np.random.default_rng(20261127)
    return [
        planted(key(policy, f"g{n}"), broken, 40, rng)
        for policy, broken in {**TRUTHS, "bump": BUMP}.items()
        for n in range(3)
    ]


def test_planted_transitions_are_found_and_what_rises_again_is_named(made: Made) -> None:
    assert made.analysis["problems"] == []
    assert {c["policy"] for c in made.analysis["not_monotone"]} == {"bump"}
    for statement in made.analysis["statements"]:
        truth = dict(zip(LADDER, losses(TRUTHS[statement["policy"]]), strict=True))
        upper, lower = statement["interval"]
        crossed = next((b for b in LADDER if truth[b] >= 0.10), None)
        assert (lower is None) == (crossed is None)
        if crossed is not None:
            assert upper > crossed >= lower
        for b in statement["budgets"]:
            if not b["interpolated"]:
                assert not (b["below_margin"] > 0.95 and truth[b["budget"]] >= 0.10)
                assert not (b["below_margin"] < 0.05 and truth[b["budget"]] < 0.10)


def test_a_folder_holds_it_all_and_is_made_once(made: Made) -> None:
    names = {"analysis.json", "diagnostics", "meta.json", "timings.json", "trace.nc"}
    assert {path.name for path in made.folder.iterdir()} == names
    assert made.analysis["config"]["targets"] == ["tgt_1"]
    for picture in ("trace", "rank", "forest", *(f"running_{policy}" for policy in TRUTHS)):
        assert (made.folder / "diagnostics" / f"{picture}.png").stat().st_size > 10_000
    again = make_posterior(of(groups()[::-1]), HOW, 0.10, made.folder.parent.parent)
    assert again.known
    assert again.folder == made.folder


def test_one_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    how = Sampling(seed=2, chains=2, draws=60, tune=60)
    first = make_posterior(of(groups()[:2]), how, 0.10, tmp_path)
    file = first.folder / "analysis.json"
    whole = file.read_bytes()
    file.write_text("garbage")
    assert list(RunStore(tmp_path).damaged()) == [first.folder]
    again = make_posterior(of(groups()[:2]), how, 0.10, tmp_path)
    assert (again.folder, again.known, file.read_bytes()) == (first.folder, False, whole)
    assert make_posterior(of(groups()[:2]), how, 0.10, tmp_path).known


def test_the_same_seed_gives_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    how = Sampling(seed=2, chains=2, draws=150, tune=150)
    pictures = [f"diagnostics/{name}.png" for name in ("trace", "rank", "forest", "running_flat")]
    one, other = (
        make_posterior(of(pairs), how, 0.10, tmp_path / name)
        for name, pairs in (("a", groups()), ("b", groups()[::-1]))
    )
    for name in ("analysis.json", "trace.nc", *pictures):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


@pytest.mark.slow
def test_a_graph_of_targets_and_runs_ends_in_posteriors_of_them(tmp_path: Path) -> None:
    group = make_group(tmp_path / "reports", per_bin=10)
    how = [Sampling(sampler, chains=2, draws=60, tune=60) for sampler in ("nuts", "slice")]
    done = build([group], tmp_path / "runs", posteriors=how)
    assert [name.split("_")[1] for name in done.posteriors] == ["nuts", "slice"]
    rows = RunStore(tmp_path / "runs").frame().query("kind == 'posterior'")
    assert list(rows["id"]) == sorted(done.posteriors)
    runs = RunStore(tmp_path / "runs").frame().query("kind == 'run'")
    assert set(rows["target"]) == set(runs["target"])
    assert rows[["model", "seed", "n", "ess", "rhat", "wall_s"]].notna().all(axis=None)
    again = build([group], tmp_path / "runs", posteriors=how)
    assert (again.made, again.posteriors) == ((), done.posteriors)


@pytest.mark.slow
def test_parsls_workers_build_the_same_posterior_behind_the_runs(tmp_path: Path) -> None:
    group = make_group(tmp_path / "reports", per_bin=10)
    how = [Sampling(chains=2, draws=60, tune=60)]
    here = build([group], tmp_path / "here", posteriors=how)
    settings = ExecutorSettings(name="parsl", workers=2)
    flow = ParslFlow.start(config_of(settings, tmp_path / "parsl"), tmp_path / "parsl")
    try:
        there = build([group], tmp_path / "there", flow.call, how)
    finally:
        flow.close()
    assert there == here
    analysis = f"posteriors/{here.posteriors[0]}/analysis.json"
    assert (tmp_path / "there" / analysis).read_bytes() == (
        tmp_path / "here" / analysis
    ).read_bytes()


def test_the_command_says_it_of_a_stored_group(project: Project, mock: MockServer) -> None:
    project.run()
    result = CliRunner().invoke(main, ["posterior"])
    assert result.exit_code == 0
    assert "40 pairs in 2 curves of 1 group, nuts with seed 1" in result.output
    assert "P(loss < 0.1) by budget" in result.output
    assert "from g (100%)" in result.output
    assert (project.path / result.output.split()[-1] / "analysis.json").exists()


def test_losses_at_a_rung_are_those_that_were_drawn() -> None:
    data = curves(groups())
    trace = sample(data, Sampling(chains=1, draws=20, tune=50))
    posterior = Posterior(data, trace, np.ones(len(data.keys)))
    found = posterior.losses(4, data.ladders[4])
    assert found == pytest.approx(flat(trace, "loss")[:, 4])


def test_draws_that_did_not_mix_say_nothing() -> None:
    fitted = fit(groups(), Sampling(chains=2, draws=30, tune=10), 0.10)
    assert fitted.problems
    assert (fitted.statements, fitted.comparisons) == ((), ())


@pytest.mark.slow
def test_a_sampler_of_another_kind_agrees() -> None:
    left = [p for p in groups() if p.key.policy == "slope"]
    nuts, slices = (
        fit(left, Sampling(sampler=sampler, seed=2), 0.10) for sampler in ("nuts", "slice")
    )
    assert (nuts.problems, slices.problems) == ((), ())
    for one, other in zip(nuts.statements, slices.statements, strict=True):
        assert one.interval == other.interval
        for mine, its in zip(one.budgets, other.budgets, strict=True):
            assert mine.loss == pytest.approx(its.loss, abs=0.01)
            assert mine.below_margin == pytest.approx(its.below_margin, abs=0.06)
