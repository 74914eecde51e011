"""Where a page shows the answers of a cell."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from pytest_kvbench.cellkey import ALL_BINS, Columns
from pytest_kvbench.records import FULL_CACHE


def link_to(cell: Columns) -> str:
    """The filters of a cell's answers, as an address holds them; over all bins, of every bin."""
    place = {
        "task": cell["task"],
        "bin": "" if cell["bin"] == ALL_BINS else str(cell["bin"]),
        "variant": cell["variant"],
        "policy": "control" if cell["policy"] == FULL_CACHE else cell["policy"],
        "budget": json.dumps(cell["budget"]),
    }
    return urlencode({name: value for name, value in place.items() if value})
