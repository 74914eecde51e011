"""What a test body holds in `gate.mode: certify`: an arm over all bins, and what is shown of it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.plugin.checks import CheckError
from pytest_kvbench.plugin.verdict import Controls
from pytest_kvbench.report import text
from pytest_kvbench.report.certificates import sentence
from pytest_kvbench.rows import Certificate


@dataclass(frozen=True, repr=False)
class JudgedArm:
    """An arm of a task: the fixture `cell` of an item `...-all-ARM`; all its pairs are compared."""

    key: CellKey
    certificate: Certificate

    def __repr__(self) -> str:
        """What a failed test of a user's shows."""
        return f"<{self.key.item_id}>"

    @property
    def is_control(self) -> bool:
        """Never: the control is certified with each arm."""
        return False

    def compare(self, control: Controls) -> JudgedArm:  # noqa: ARG002 -- as a cell's
        """Itself: its pairs were judged with all others."""
        return self

    def check(self) -> None:
        """Fail unless it is certified.

        Raises:
            AssertionError: with all that is not shown.
        """
        __tracebackhide__ = True
        if not self.certificate["certified"]:
            short = f"not certified {text.short(self.certificate['delta'])}"
            raise CheckError(f"{self.key.item_id}: {sentence(self.certificate)}", short)

    def check_harness(self) -> None:
        """Nothing: the harness is checked cell by cell."""
