"""The measured pairs of groups, a curve over budgets each: what a posterior is made from.

An example that several groups asked alike counts once under a policy, as that of the group that has
most pairs: a copy of a group adds nothing, and rungs that another group added are the same curve's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.ops import doubts
from pytest_kvbench.ops.curve_names import Recipe, names, recipe_of
from pytest_kvbench.ops.recipes import octave
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.judge import question_of
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.records import SCORE, Cell, Request

if TYPE_CHECKING:
    import pandas as pd

    from pytest_kvbench.posterior.curves import Pairs
    from pytest_kvbench.rows import CellRow

_Told = tuple[Recipe, float, doubts.Told]
"""How an arm was asked, its budget, and what a group found of one of its cells."""

CELL = list(CellKey._fields)
_CURVE = ["group", "task", "low", "high", "policy"]
_ARM = ("task", "policy", "budget", "variant")
_EXAMPLE = ["task", "policy", "example"]


class ArmDoubt(NamedTuple):
    """What speaks against one arm, see `doubts`."""

    task: str
    policy: str
    budget: float
    doubt: str


@dataclass(frozen=True)
class Paired:
    """Curves, and the doubts of all arms that were planned; an arm left out is in no curve."""

    pairs: Sequence[Pairs]
    doubts: tuple[ArmDoubt, ...]


@dataclass(frozen=True)
class GroupPairs:
    """The pairs of a group's measured cells, and what it found of its arms; none without scores."""

    prepared: Prepared
    rows: pd.DataFrame | None = None
    told: Sequence[_Told] = ()


def paired_curves(groups: Iterable[GroupPairs]) -> Paired:
    """Every ladder of the groups' plans, with the pairs that may be judged.

    Cells that were not measured (a control that is not sane, a budget that was provably not
    applied, too many lost answers) are left out, and so are lost pairs, arms that may be the
    control itself, and arms that are asked because they are known to be bad. Of trials the mean
    counts.

    Args:
        groups: as `read_pairs` gives them.
    """
    import pandas as pd

    read = list(groups)
    every = [told for group in read for told in group.told]
    named = names(recipe for recipe, *_ in every)
    found = tuple(_doubts(every, named))
    left_out = {arm[:3] for arm in found if doubts.why_left_out(arm.doubt)}
    filled = (
        group.rows.assign(policy=group.rows["recipe"].map(named))
        for group in read
        if group.rows is not None and len(group.rows)
    )
    tables = sorted(filled, key=_fullest)
    if not tables:
        return Paired((), found)
    rows = pd.concat(tables, ignore_index=True)
    arms = pd.MultiIndex.from_frame(rows[["task", "policy", "budget"]])
    rows = _placed(_once(rows[~arms.isin(list(left_out))]))
    ladders = rows.groupby(_CURVE, sort=True)
    return Paired([_curve(key, own) for key, own in ladders], found)


def _fullest(rows: pd.DataFrame) -> tuple[int, str]:
    return -len(rows), rows["group"].iloc[0]


# -- one group -----------------------------------------------------------------------------------


def read_pairs(prepared: Prepared) -> GroupPairs:
    """What a group adds to curves.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    import pandas as pd

    from pytest_kvbench.analyse import analyse
    from pytest_kvbench.analyse.pairs import (
        checked_observations,
        measured_pairs,
        pair,
        with_ids,
    )

    stored = observed(prepared)
    family = question_of(prepared.experiment, stored.judged).families.get(SCORE)
    if family is None:
        return GroupPairs(prepared)  # a curve is one of scores
    table = family.table()
    planned = {CellKey.of(cell).pooled for cell in prepared.cells if not cell.is_control}
    judged = analyse(table, family.rules, family.sick).cells
    own = {key: row for row in judged if (key := CellKey.of_row(row)).pooled in planned}
    measured = [key for key, row in own.items() if _is_measured(row)]
    pairs = with_ids(measured_pairs(pair(checked_observations(table))), family.columns)
    recipes = _recipes(prepared, stored.planned)
    told = [_told(recipes[_arm(key)], row) for key, row in own.items()]
    rows = _described(prepared, pairs, measured, stored.planned)
    asked = zip(*(rows[name] for name in _ARM), strict=True)
    recipe = pd.Series([recipes[arm] for arm in asked], index=rows.index, dtype=object)
    return GroupPairs(prepared, rows.assign(recipe=recipe), told)


def _recipes(
    prepared: Prepared, planned: Iterable[tuple[Cell, Request]]
) -> dict[tuple[str, str, float, str], Recipe]:
    return {
        _arm(cell): recipe_of(cell.task, request.arm, prepared.experiment)
        for cell, request in planned
        if cell.measure == SCORE
    }


def _is_measured(row: CellRow) -> bool:
    return row["verdict_holm"] != "not-measured"


def _arm(key: Cell | CellKey) -> tuple[str, str, float, str]:
    return key.task, key.policy, key.budget, key.variant


def _told(recipe: Recipe, row: CellRow) -> _Told:
    told = doubts.Told(_is_measured(row), row["proof"], row["flags"])
    return recipe, row["budget"], told


def _described(
    prepared: Prepared,
    pairs: pd.DataFrame,
    measured: Sequence[CellKey],
    planned: Sequence[tuple[Cell, Request]],
) -> pd.DataFrame:
    """The pairs below budget 1.0 of measured cells, each with its example's identity and length."""
    import numpy as np
    import pandas as pd

    known = pd.MultiIndex.from_tuples([key for key in measured if key.budget < 1], names=CELL)
    rows = pairs[pd.MultiIndex.from_frame(pairs[CELL]).isin(known)]
    examples = {
        (cell.task, cell.variant, request.example_id): f"{request.arm.content_id} {request.asks}"
        for cell, request in planned
        if cell.is_control and cell.measure == SCORE
    }
    manifests = prepared.manifests
    tokens = {(t, e.example.example_id): e.tokens for t, m in manifests.items() for e in m.entries}
    edges = {(task, b.index): b for task, manifest in manifests.items() for b in manifest.bins}
    asked = list(zip(rows["task"], rows["variant"], rows["example_id"], strict=True))
    bins = [edges[place] for place in zip(rows["task"], rows["bin"], strict=True)]
    return rows.assign(
        group=prepared.experiment.group,
        example=[f"{one[2]} {examples[one]}" for one in asked],
        tokens=[tokens[task, example] for task, _, example in asked],
        low=np.array([b.low for b in bins], float),
        high=np.array([b.high for b in bins], float) - 1,
    )


# -- all groups ----------------------------------------------------------------------------------


def _doubts(told: Iterable[_Told], named: Mapping[Recipe, str]) -> Iterator[ArmDoubt]:
    found: dict[tuple[str, str, float], list[doubts.Told]] = {}
    for recipe, budget, cell in told:
        found.setdefault((recipe.task, named[recipe], budget), []).append(cell)
    yield from (ArmDoubt(*arm, doubts.doubt_of(cells)) for arm, cells in sorted(found.items()))


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """An example once at a budget of a policy, all its budgets in the first group that has it."""
    kept = rows.drop_duplicates([*_EXAMPLE, "budget"])
    own = ["group", "bin", "low", "high", "tokens", "cluster", "control"]
    first = kept.drop_duplicates(_EXAMPLE)[[*_EXAMPLE, *own]]
    return kept.drop(columns=own).merge(first, on=_EXAMPLE, validate="many_to_one")


def _placed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the tokens that their bins reach from, `low`, to, `high`.

    Where an edge is open that is what was seen, by all groups whose bins are declared alike and
    whose prompts are of the same octave.
    """
    medians = rows.groupby(["group", "task", "bin"])["tokens"].transform("median")
    is_open = rows[["low", "high"]].isna().any(axis=1)
    about = medians.map(octave).where(is_open, "")
    tokens = rows.assign(about=about).groupby(["task", "low", "high", "about"], dropna=False)
    seen = tokens["tokens"]
    return rows.assign(
        low=rows["low"].fillna(seen.transform("min")).astype(int),
        high=rows["high"].fillna(seen.transform("max")).astype(int),
    )


def _curve(key: Any, rows: pd.DataFrame) -> Pairs:
    import numpy as np

    from pytest_kvbench.posterior.curves import CurveKey, Pairs

    group, task, low, high, policy = key
    wide = rows.pivot(index=["example", "cluster"], columns="budget", values="treated")
    budgets = sorted(wide.columns, reverse=True)
    first = rows.drop_duplicates("example").set_index("example").loc[wide.index.get_level_values(0)]
    return Pairs(
        CurveKey(group, task, int(low), int(high), policy),
        tuple(map(float, budgets)),
        first["control"].to_numpy(float),
        wide[budgets].to_numpy(float),
        np.unique(wide.index.get_level_values("cluster"), return_inverse=True)[1],
        float(first["tokens"].median()),
    )
