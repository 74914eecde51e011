"""What a run declared, as it is stored: read key by key, whatever version wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_kvbench.records import Params

Keys = Mapping[str, object]
"""What was declared, as JSON: the keys of the version that wrote it, which `Snapshot` reads."""

ALONE = 1
"""`self_consistency` where nobody votes, as in all that is older than the key."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of any version. What a version did not have yet is None."""

    keys: Keys

    def get(self, dotted: str) -> Any:
        """A value by its dotted key."""
        value: Any = self.keys
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def listed(self, dotted: str) -> str:
        """A list's values, with commas."""
        return ",".join(map(str, self.get(dotted) or ()))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(map(str, self.get("tasks") or ()))

    def params(self, policy: str) -> Params:
        """A policy's own parameters."""
        params: Params = (self.get("kv.params") or {}).get(policy, {})
        return params

    @property
    def margin(self) -> float | None:
        """In score units; of a share to retain, what it is where the control scores 1."""
        margin: float | None = self.get("gate.margin")
        return 1 - margin["retain"] if isinstance(margin, Mapping) else margin

    @property
    def dials(self) -> dict[str, object]:
        """What was the same for all of its cells."""
        return {
            "engine": self.get("engine.name"),
            "model": self.get("engine.model"),
            "dtype": self.get("engine.dtype"),
            "question_aware": self.get("kv.question_aware"),
            "temperature": self.get("sampling.temperature"),
            "self_consistency": self.get("sampling.self_consistency") or ALONE,
            "max_tokens": self.get("sampling.max_tokens"),
            "seed": self.get("sampling.seed"),
            "margin": self.margin,
            "alpha": self.get("gate.alpha"),
        }
