"""An embedded server's stand-in that compares distributions: each arm overlaps as it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.mock_server import MockServer, prompt_in

LENGTH = 8
"""Tokens of a reply."""


@dataclass
class ForcedServer(MockServer):
    """Use as `MockServer`; requests with `force` are compared, all others answered as there."""

    overlap: Callable[[str, float], float] = lambda policy, budget: budget
    """The mean overlap of an arm with the full cache."""
    again: float = 1.0
    """That of the full cache with itself, asked again."""
    forces: list[dict[str, Any]] = field(default_factory=list)
    """The `force` of every request, with the arms beside it."""

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        done = super().completion(body)
        if (force := body.get("force")) is None:
            return done
        arms = [(arm["policy"], arm["budget"]) for arm in body["kv"]]
        self.forces.append({**force, "arms": arms})
        known = force["reference"]
        reference = known or [_drawn(prompt_in(body), at) % 1000 for at in range(LENGTH)]
        for index, choice in enumerate(done["choices"]):
            choice["message"]["content"] = " ".join(map(str, reference))
            choice["forced"] = self._forced(prompt_in(body), reference, index, *arms[index])
        return done

    def _forced(
        self, prompt: str, reference: list[int], index: int, policy: str, budget: float
    ) -> dict[str, Any]:
        full = self.again if index else 1.0
        mean = full if policy == "none" else self.overlap(policy, budget)
        spread = min(mean, 1 - mean) / 4
        overlap = [
            mean + spread * (1 if _drawn(prompt, at) % 2 else -1) for at in range(len(reference))
        ]
        top = [t if o > 0.5 else t + 1 for t, o in zip(reference, overlap, strict=True)]
        return {
            "reference": reference,
            "k": None,
            "nll": [0.5 + 1 - o for o in overlap],
            "top": top,
            "top_nll": [0.4] * len(top),
            "reference_top_nll": [0.5] * len(top),
            "overlap": overlap,
            "kld": [(1 - o) ** 2 for o in overlap],
        }


def _drawn(prompt: str, at: int) -> int:
    return int(hashlib.sha256(f"{prompt} {at}".encode()).hexdigest()[:8], 16)
