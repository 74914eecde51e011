"""Tables as CSV that people open in a spreadsheet, which takes some texts for formulas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"\s*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r\n]")
"""Signs that begin a formula, wide ones too, and what a spreadsheet takes away before it looks."""


def csv_text(rows: pd.DataFrame) -> str:
    """A table as CSV. A text that would be a formula gets an apostrophe in front; numbers stay.

    Of a tuple of texts the cell has all, with "; " between.
    """
    from pandas.api.types import is_numeric_dtype

    texts = {
        str(name): rows[name].map(_harmless) for name in rows if not is_numeric_dtype(rows[name])
    }
    # A bare CR ends a row too, for who reads it: it is quoted where lines end in both.
    return rows.assign(**texts).to_csv(index=False, lineterminator="\r\n")


def _harmless(value: Any) -> Any:
    value = "; ".join(value) if isinstance(value, tuple) else value
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
