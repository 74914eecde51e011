"""What broke in the experiment that one comes after, which is asked no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Prepared, Site, open_group
from pytest_kvbench.records import VerdictWord

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.judge import Judge


def broken_before(
    declared: Declared, site: Site, judge_with: Judge | None = None
) -> dict[str, tuple[str, ...]]:
    """What broke in the experiment that this one comes `after`; nothing where it follows none.

    Raises:
        MissingPrerequisiteError: that one was not run.
    """
    before = declared.experiment.after
    if before is None:
        return {}
    return broken_arms(open_group(site.reports / before, site.tasks), judge_with)


def broken_arms(prepared: Prepared, judge_with: Judge | None = None) -> dict[str, tuple[str, ...]]:
    """By task: the arms that broke over all bins, in every variant.

    Raises:
        MissingPrerequisiteError: nothing was answered there.
    """
    from pytest_kvbench.pipeline.conclude import analyse, score_plan  # late: few follow any

    score_plan(prepared)
    cells = [c for c in analyse(prepared, judge_with).summary["cells"] if c["verdict"]]
    pooled = [cell for cell in cells if cell["bin"] == ALL_BINS] or cells
    verdicts: dict[tuple[str, str], set[VerdictWord | None]] = {}
    for cell in pooled:
        arm = (cell["task"], plan.arm_name(cell["policy"], cell["budget"]))
        verdicts.setdefault(arm, set()).add(cell["verdict_holm"])
    broken = [arm for arm, words in verdicts.items() if words == {"breaks"}]
    return {
        task: tuple(name for of, name in broken if of == task)
        for task in prepared.experiment.tasks
        if any(of == task for of, _ in broken)
    }
