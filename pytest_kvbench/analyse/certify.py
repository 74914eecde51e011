"""Certificates: an arm passes only what is shown, and says of what is not.

All of this must hold: the row over all bins holds at its adjusted level, also were every lost pair
a loss; every bin was measured, and none breaks; the treatment is proven; the control is sane,
answered twice, and a loss can be seen on the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.records import PROVEN, SCORE
from pytest_kvbench.rows import CellRow, Certificate, NoiseFloor, WorstBin

Missing = Mapping[CellKey, str]
"""Cells of the plan that lack answers, each with the reason."""


@dataclass(frozen=True)
class Shown:
    """What an experiment has shown.

    Args:
        cells: the rows of controls, of single bins and over all bins.
        sensitivity: the rows of arms that are known to be bad.
        floor: of the control's second run; None where it ran once.
        missing: the plan's cells that lack answers.
    """

    cells: Mapping[CellKey, CellRow]
    sensitivity: Mapping[CellKey, CellRow]
    floor: NoiseFloor | None
    missing: Missing

    def certificates(self) -> list[Certificate]:
        """One for each planned arm of a task and variant, in the order of the rows."""
        planned = [*self.cells, *self.missing]
        arms = dict.fromkeys(key.pooled for key in planned if not key.is_control)
        return [self._certificate(arm) for arm in arms]

    def _certificate(self, arm: CellKey) -> Certificate:
        row, problems = self.cells.get(arm), list(self._problems(arm))
        return {
            **arm.columns(),
            "delta": row and row["delta"],
            "ci_low": row and row["ci_low"],
            "ci_high": row and row["ci_high"],
            "certified": not problems,
            "problems": problems,
            "worst": _worst(self._bins(arm)),
        }

    def _problems(self, arm: CellKey) -> Iterator[str]:
        yield from _of_verdict(self.cells.get(arm))
        yield from self._of_bins(arm)
        yield from self._of_control(arm)
        yield from self._of_sensitivity(arm)
        if arm.measure != SCORE:
            return  # its control is the full cache, asked again
        if self.floor is None or arm.task not in self.floor["tasks"]:
            yield "the control was not asked a second time (`aa: true`)"

    def _bins(self, arm: CellKey) -> list[CellRow]:
        return [row for key, row in self.cells.items() if key.pooled == arm and key != arm]

    def _of_bins(self, arm: CellKey) -> Iterator[str]:
        """The first bin of each fault: a plan may have a thousand."""
        rows = self._bins(arm)
        lacking = {key.bin: why for key, why in self.missing.items() if key.pooled == arm}
        lacking |= {row["bin"]: row["reason"] for row in rows if row["verdict"] == "not-measured"}
        for bin_, why in list(lacking.items())[:1]:
            yield f"bin {bin_} was not measured: {why}"
        if broken := [str(row["bin"]) for row in rows if row["verdict"] == "breaks"]:
            yield f"bin {broken[0]} breaks"
        if doubtful := [row["proof"] for row in rows if row["proof"] != PROVEN]:
            yield f"nothing proves that the budget was applied ({doubtful[0]})"

    def _of_control(self, arm: CellKey) -> Iterator[str]:
        own = (arm.task, arm.variant, arm.measure)
        for key, row in self.cells.items():
            if key.is_control and (key.task, key.variant, key.measure) == own and row["reason"]:
                yield f"the control of bin {key.bin} is not sane: {row['reason']}"
                return

    def _of_sensitivity(self, arm: CellKey) -> Iterator[str]:
        own = (arm.task, arm.variant, arm.measure)
        found = [
            row
            for key, row in self.sensitivity.items()
            if (key.task, key.variant, key.measure) == own
        ]
        if not found:
            yield "no arm that is known to be bad was asked (`sensitivity`)"
        for row in found:
            if row["verdict"] != "breaks":
                named = f"{row['policy']} {row['budget']:g}"
                yield f"{named}, known to be bad, does not break: a loss cannot be seen"


def certificates(
    cells: Sequence[CellRow],
    sensitivity: Sequence[CellRow],
    floor: NoiseFloor | None,
    missing: Missing,
) -> list[Certificate]:
    """What is certified of each arm; see `Shown`, which takes rows by their keys."""
    shown, bad = ({CellKey.of_row(row): row for row in rows} for rows in (cells, sensitivity))
    return Shown(shown, bad, floor, missing).certificates()


def _of_verdict(row: CellRow | None) -> Iterator[str]:
    if row is None:
        yield "nothing was measured"
    elif row["verdict_holm"] != "holds":
        why = f": {row['reason']}" if row["reason"] else ""
        yield f"{row['verdict_holm']} over all bins{why}"


def _worst(rows: Sequence[CellRow]) -> WorstBin | None:
    measured = [row for row in rows if row["ci_low"] is not None]
    if not measured:
        return None
    row = min(measured, key=lambda row: (row["delta"] or 0.0, row["ci_low"] or 0.0))
    return {
        "bin": int(row["bin"]),
        "delta": row["delta"],
        "ci_low": row["ci_low"],
        "ci_high": row["ci_high"],
    }
