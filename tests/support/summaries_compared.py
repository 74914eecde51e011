"""What must be equal in two summaries of the same experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIMES = {"efficiency", "checksum"}
"""Made of wall times alone."""

RUN_FACTS = {"command", "started", "finished", "git_commit", "cpu", "platform", "controls"}
"""When, where and how a run was started: the only provenance that may differ."""


def _timeless(value: Any) -> Any:
    """Without every key that is a latency, whichever row it is in."""
    if isinstance(value, Mapping):
        return {k: _timeless(v) for k, v in value.items() if not _is_time(k)}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _is_time(key: str) -> bool:
    return "latency" in key or "ttft" in key


def comparable(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without times and without who ran it when; every other figure stays."""
    kept = {key: _timeless(value) for key, value in summary.items() if key not in TIMES}
    provenance = summary["provenance"]
    return {**kept, "provenance": {k: v for k, v in provenance.items() if k not in RUN_FACTS}}
