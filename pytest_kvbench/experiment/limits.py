"""How much an experiment may ask for: bounds that no sane one meets."""

from __future__ import annotations

import re

GROUP_NAMES = "a folder name of letters, digits, dot, dash and underscore"


GROUP = r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$"
"""What follows an @ names the member of a roster."""


MAX_GROUP = 150


# Far above what anybody asks for, and far below what a slip of the keyboard makes of it: a plan is
# refused before its cells fill the memory.
MAX_BINS = 1_000


MAX_LISTED = 1_000


MAX_CELLS = 50_000


MAX_REQUESTS = 20_000_000


MAX_TOKENS = 100_000_000


MAX_SECONDS = 1_000_000  # 11 days; the clocks of event loops overflow far above


HOTTEST = 100


def is_group_name(name: object) -> bool:
    """Whether a group may be called so, here and in an archive."""
    is_short = isinstance(name, str) and len(name) <= MAX_GROUP
    return is_short and re.fullmatch(GROUP, str(name)) is not None
