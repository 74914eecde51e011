"""Servers that answer before they have loaded their model."""

from __future__ import annotations

import re

LOOK_S = 0.5
"""Between two looks at one."""

UNAVAILABLE = 503
_LOADING = re.compile(r"loading|warming|starting|not ready|initiali[sz]", re.IGNORECASE)


def is_loading(status: int | None, message: str) -> bool:
    """Whether a server that answers so is still on its way up."""
    return status == UNAVAILABLE and _LOADING.search(message) is not None
