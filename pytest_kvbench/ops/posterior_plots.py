"""Pictures of a posterior: did its chains mix, and what is lost at which budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_kvbench.ops.target_store import slug

if TYPE_CHECKING:
    from pytest_kvbench.posterior.statements import Posterior, Statement

_Picture = Callable[[Any, Any], None]
"""Draws the chains of one quantity, shape (chains, draws), into a pane of matplotlib."""

BINS = 20
APART = 0.06
"""How much of the budgets' axis the policies of one budget are spread over, at most."""

SHOWN = 6
"""Losses whose chains are drawn: those that mixed worst, of all and of each policy."""


def draw(posterior: Posterior, margin: float, folder: Path) -> None:
    """Write trace.png, rank.png, forest.png, and running_POLICY.png of each policy."""
    from pytest_kvbench.posterior.statements import statements

    folder.mkdir()
    worst = _worst(posterior)
    _chains(posterior, worst[:SHOWN], _line, folder / "trace.png", "draw, a colour a chain")
    ranks = "rank among all chains' draws, how many draws of each; dashed: chains that are alike"
    _chains(posterior, worst[:SHOWN], _ranks, folder / "rank.png", ranks)
    for policy in posterior.data.policies:
        own = [at for at in worst if posterior.data.keys[at.curve].policy == policy]
        file = folder / f"running_{slug(policy)}.png"
        _chains(posterior, own[:SHOWN], _means, file, "mean of the draws so far, a colour a chain")
    _forest(statements(posterior, margin), margin, folder / "forest.png")


class _Loss(NamedTuple):
    """One loss: a curve's at a rung."""

    curve: int
    rung: int
    r_hat: float


def _worst(posterior: Posterior) -> list[_Loss]:
    """All measured losses, those whose chains mixed worst first."""
    import arviz as az

    r_hat = az.rhat(posterior.trace, var_names=["loss"])["loss"].to_numpy()
    ladders = posterior.data.ladders
    measured = [(c, r) for c, ladder in enumerate(ladders) for r in range(len(ladder))]
    return sorted((_Loss(*at, float(r_hat[at])) for at in measured), key=lambda at: -at.r_hat)


def _chains(
    posterior: Posterior, some: Sequence[_Loss], picture: _Picture, file: Path, words: str
) -> None:
    """The chains of some losses, a pane each."""
    from matplotlib.figure import Figure

    values = posterior.trace.posterior["loss"].to_numpy()
    height = 1.7 * len(some)
    figure = Figure(figsize=(9, height))  # to have it laid out would take as long as to draw it
    panes = figure.subplots(len(some), 1, squeeze=False)[:, 0]
    edges = {"top": 1 - 0.3 / height, "bottom": 0.6 / height}
    figure.subplots_adjust(left=0.07, right=0.99, hspace=0.55, **edges)
    for pane, (curve, rung, r_hat) in zip(panes, some, strict=True):
        picture(pane, values[:, :, curve, rung])
        key, budget = posterior.data.keys[curve], posterior.data.ladders[curve][rung]
        title = f"loss of {key.policy} at {budget:g}, {key.task} {key.low}-{key.high}, {key.group}"
        pane.set_title(f"{title}: R-hat {r_hat:.3f}", fontsize=9, loc="left")
        pane.margins(x=0)
    figure.supxlabel(words, fontsize=9, y=0.12 / height)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _line(pane, chains) -> None:  # type: ignore[no-untyped-def]  # matplotlib's and numpy's
    for chain in chains:
        pane.plot(chain, linewidth=0.4, alpha=0.8)


def _means(pane, chains) -> None:  # type: ignore[no-untyped-def]
    """Running means: chains that agree end at one height."""
    import numpy as np

    _line(pane, np.cumsum(chains, axis=1) / np.arange(1, chains.shape[1] + 1))


def _ranks(pane, chains) -> None:  # type: ignore[no-untyped-def]
    """How the ranks of each chain's draws are spread: evenly, where all chains are alike."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(chains).reshape(chains.shape)
    for chain in ranks:
        counts, edges = np.histogram(chain, bins=BINS, range=(0, chains.size))
        pane.stairs(counts, edges, baseline=None)
    pane.axhline(chains.shape[1] / BINS, color="grey", linestyle="--", linewidth=1)
    pane.set_ylim(0, 2.2 * chains.shape[1] / BINS)


def _forest(found: list[Statement], margin: float, file: Path) -> None:
    """Losses with their 90% intervals at measured budgets, a pane a place, a colour a policy."""
    from matplotlib.figure import Figure

    places = [p for p, _ in itertools.groupby(sorted(found, key=_place), key=_place)]
    figure = Figure(figsize=(8, 3.2 * len(places)), layout="constrained")
    panes = figure.subplots(len(places), 1, squeeze=False)[:, 0]
    for pane, place in zip(panes, places, strict=True):
        here = [s for s in found if _place(s) == place]
        step = min(0.008, APART / len(here))
        for number, statement in enumerate(here):
            _ladder(pane, statement, (number - (len(here) - 1) / 2) * step)
        pane.axhline(margin, color="grey", linestyle="--", linewidth=1, label=f"margin {margin:g}")
        pane.set_title(f"{place[0]}, {place[1]:,} to {place[2]:,} tokens", fontsize=10, loc="left")
        pane.invert_xaxis()
        pane.set_xlabel("budget")
        pane.set_ylabel("loss, 90% interval")
        pane.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _place(statement: Statement) -> tuple[str, int, int]:
    return statement.place.task, statement.place.low, statement.place.high


def _ladder(pane, statement: Statement, shift: float) -> None:  # type: ignore[no-untyped-def]
    measured = [b for b in statement.budgets if not b.interpolated]
    pane.errorbar(
        [b.budget + shift for b in measured],
        [b.loss for b in measured],
        yerr=[[b.loss - b.low for b in measured], [b.high - b.loss for b in measured]],
        fmt="o-",
        markersize=4,
        linewidth=1,
        capsize=2,
        label=statement.policy,
    )
