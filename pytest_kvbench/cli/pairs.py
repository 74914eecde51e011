"""The CSV of paired scores that `kvbench judge` is given, as a table."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import TextStream

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("task", "policy", "example_id", "cluster", "variant", "measure")
NUMBERS = ("bin", "budget", "control", "treated")
_NEEDED = "give a CSV in UTF-8 with a header and commas between the columns"


def read_pairs(file: Path) -> pd.DataFrame:
    """The rows of a CSV; texts as they are, empty numbers as NaN.

    Raises:
        UsageError: no CSV, a column that is there twice, or rows that are longer than the header.
    """
    import pandas as pd

    stream = TextStream(file)
    header = _header(stream, file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # columns would be dropped
            return pd.read_csv(
                stream,
                names=header,
                header=None,
                index_col=False,
                skipinitialspace=True,
                dtype=dict.fromkeys(TEXTS, str),
                keep_default_na=False,  # a policy may be called NA or None
                na_values={column: ["", "nan", "NaN"] for column in NUMBERS},
                low_memory=False,  # else a column may be numbers in one piece and texts in another
            )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=header)
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        raise UsageError(f"{file}: is no CSV: {' '.join(str(error).split())}", _NEEDED) from error


def _header(stream: TextStream, file: Path) -> list[str]:
    try:
        names = [name.strip() for name in next(csv.reader(stream, skipinitialspace=True), [])]
    except csv.Error as error:
        raise UsageError(f"{file}: its header cannot be read: {error}", _NEEDED) from error
    if not any(names):
        raise UsageError(f"{file}: has no header", _NEEDED)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{file}: columns that are there twice: {', '.join(twice)}", "keep one")
    return names
