"""Pictures of a posterior: did its chains mix, and what is lost at which budget."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvbench.posterior.statements import Posterior, Statement

SHOWN = 6
"""Losses whose chains are drawn: those that mixed worst."""


def draw(posterior: Posterior, margin: float, folder: Path) -> None:
    """Write trace.png, rank.png and forest.png."""
    from pytest_kvbench.posterior.statements import statements

    folder.mkdir()
    _chains(posterior, folder)
    _forest(statements(posterior, margin), margin, folder / "forest.png")


def _chains(posterior: Posterior, folder: Path) -> None:
    """The chains of the worst losses, over draws and as ranks (flat where they mixed)."""
    import arviz as az
    from matplotlib.figure import Figure

    worst = _worst(posterior)
    values = posterior.trace.posterior["loss"].to_numpy()
    for name, picture in (("trace", _line), ("rank", _ranks)):
        figure = Figure(figsize=(9, 1.7 * len(worst)), layout="constrained")
        panes = figure.subplots(len(worst), 1, squeeze=False)[:, 0]
        for pane, (curve, rung) in zip(panes, worst, strict=True):
            picture(pane, values[:, :, curve, rung])
            key, budget = posterior.data.keys[curve], posterior.data.ladders[curve][rung]
            r_hat = float(az.rhat(values[:, :, curve, rung]))
            title = (
                f"loss of {key.policy} at {budget:g}, {key.task} {key.low}-{key.high}, {key.group}"
            )
            pane.set_title(f"{title}: R-hat {r_hat:.3f}", fontsize=9, loc="left")
        figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


def _worst(posterior: Posterior) -> list[tuple[int, int]]:
    import arviz as az

    r_hat = az.rhat(posterior.trace, var_names=["loss"])["loss"].to_numpy()
    ladders = posterior.data.ladders
    measured = [(c, r) for c, ladder in enumerate(ladders) for r in range(len(ladder))]
    return sorted(measured, key=lambda at: -r_hat[at])[:SHOWN]


def _line(pane, chains) -> None:  # type: ignore[no-untyped-def]  # matplotlib's and numpy's
    for chain in chains:
        pane.plot(chain, linewidth=0.4, alpha=0.8)


def _ranks(pane, chains) -> None:  # type: ignore[no-untyped-def]
    from scipy.stats import rankdata

    ranks = rankdata(chains).reshape(chains.shape)
    for chain in ranks:
        pane.hist(chain, bins=20, histtype="step")


def _forest(found: list[Statement], margin: float, file: Path) -> None:
    """Losses with their 90% intervals at measured budgets, a pane a place, a colour a policy."""
    from matplotlib.figure import Figure

    places = [p for p, _ in itertools.groupby(sorted(found, key=_place), key=_place)]
    figure = Figure(figsize=(8, 3.2 * len(places)), layout="constrained")
    panes = figure.subplots(len(places), 1, squeeze=False)[:, 0]
    for pane, place in zip(panes, places, strict=True):
        here = [s for s in found if _place(s) == place]
        for number, statement in enumerate(here):
            _ladder(pane, statement, (number - (len(here) - 1) / 2) * 0.008)
        pane.axhline(margin, color="grey", linestyle="--", linewidth=1)
        pane.set_title(f"{place[0]}, {place[1]:,} to {place[2]:,} tokens", fontsize=10, loc="left")
        pane.invert_xaxis()
        pane.set_xlabel("budget")
        pane.set_ylabel("loss, 90% interval")
        pane.legend(fontsize=8, loc="upper left")
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
