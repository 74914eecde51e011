"""One group for a notebook."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.files import scratch
from pytest_kvbench.hints import command
from pytest_kvbench.ops.columns import COLUMNS, Table
from pytest_kvbench.ops.rows import read_group

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class GroupFrames:
    """pandas frames: a row per answer or failure, per cell (controls too), per transition.

    Columns are those of `pytest_kvbench.ops.rows.COLUMNS` and, of transitions, of summary.json.
    A notebook shows the group's verdicts and figures.
    """

    answers: pd.DataFrame
    cells: pd.DataFrame
    transitions: pd.DataFrame
    path: Path

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict table and the figures, as the report has them."""
        from pytest_kvbench.pipeline.conclude import SUMMARY
        from pytest_kvbench.report import notebook_html

        try:
            summary = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            line = f"{self.path}: not analysed yet: {command('analyse', self.path)}"
            return f"<p>{html.escape(line)}</p>"
        with scratch() as room:
            return notebook_html(summary, room)


def load_group(path: str | Path) -> GroupFrames:
    """Read a group's folder, as in `load_group("reports/my_group")`. Changes nothing there.

    Raises:
        StoreError: no readable database is there.
    """
    import pandas as pd

    group = read_group(Path(path))
    return GroupFrames(
        _frame("answers", group.answers),
        _frame("cells", group.cells),
        pd.DataFrame(group.transitions),
        Path(path),
    )


def _frame(name: str, table: Table) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame.from_records(table.rows, columns=list(table.columns))
    # SQLite has no truth values
    return frame.astype({c: bool for c, kind in COLUMNS[name].items() if kind == "bool"})
