"""What must be equal in two summaries of the same experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIMES = {"efficiency"}
"""Made of wall times alone."""

RUN_FACTS = {"command", "started", "finished", "git_commit", "cpu", "platform"}
"""When, where and how a run was started: the only provenance that may differ."""


def comparable(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without times and without who ran it when; every figure stays."""
    kept = {key: value for key, value in summary.items() if key not in TIMES}
    provenance = summary["provenance"]
    return {**kept, "provenance": {k: v for k, v in provenance.items() if k not in RUN_FACTS}}
