"""What a server will be, worked out alike by itself and by who starts it: dtype, device and slots.

No torch here: see `weights`.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pytest_kvbench.errors import UsageError
from pytest_kvbench.processes import without_secrets
from pytest_kvbench.server import shape, weights
from pytest_kvbench.server.shape import Memory, Shape

_ASK = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_ASK_S = 20.0
_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True)
class Card:
    """A GPU: its name and its bytes."""

    name: str
    nbytes: int


@dataclass(frozen=True)
class Choice:
    """What a server will be; `shape` is None where rows of any lengths decode together.

    `memory` and `spread`, whether the model is on several GPUs, are None where nothing is known.
    """

    dtype: str
    device: str
    card: str = ""
    shape: Shape | None = None
    memory: Memory | None = None
    spread: bool | None = None

    def fingerprint(self, folder: Path) -> dict[str, str]:
        """All that may change an answer, see `weights.fingerprint_parts`."""
        own = {"card": self.card, "slots": str(self.shape or "")}
        parts = weights.fingerprint_parts(folder, self.dtype, self.device)
        return {**parts, **{name: value for name, value in own.items() if value}}


def choose(
    folder: Path,
    dtype: str | None = None,
    device: str = "auto",
    slots: str = "auto",
    share: float = shape.SHARE,
) -> Choice:
    """What serves the model in `folder` under these options.

    Raises:
        UsageError: its slots do not fit, or nothing says how large they may be.
    """
    device = weights.default_device() if device == "auto" else device
    dtype = dtype or weights.default_dtype(device)
    found = cards() if device == "cuda" else ()
    if device == "cuda" and not found and weights.default_device() == "cpu":
        raise UsageError("--device cuda: torch sees no GPU.", "Valid: cpu.")
    spread = None
    if found:
        fits = shape.weights_of(folder, dtype) < shape.MOST_WEIGHTS * found[0].nbytes
        spread, found = not fits and len(found) > 1, found[:1] if fits else found
    name = " + ".join(dict.fromkeys(card.name for card in found))
    if slots == "none" or (slots == "auto" and (device == "cpu" or _turns_by_length(folder))):
        return Choice(dtype, device, name, spread=spread)
    if _turns_by_length(folder):
        raise UsageError(
            f"slots: {slots}, but this model's longest row changes the positions of all others.",
            "Valid: auto or none, with which each row has a pass of its own.",
        )
    if slots == "auto" and not found:
        raise UsageError(
            "slots: auto, but nvidia-smi does not say how much memory there is.",
            "Valid: as in engine.slots: 8x16384, or --slots 8x16384.",
        )
    try:
        sizes, total = shape.sizes_of(folder, dtype), sum(card.nbytes for card in found)
    except KeyError as error:
        if slots == "auto":  # whoever loads it says what it is
            return Choice(dtype, device, name, spread=spread)
        raise UsageError(
            f"slots: {slots}, but the model's config.json does not say its {error}.",
            "Valid: none.",
        ) from error
    chosen = shape.fitting(sizes, total, share) if slots == "auto" else shape.parsed(slots)
    memory = shape.refuse(chosen, sizes, total, share) if found else None
    return Choice(dtype, device, name, chosen, memory, spread)


@functools.cache
def cards() -> tuple[Card, ...]:
    """The GPUs that a process started here sees; empty where nothing says so."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    only = ("-i", visible) if visible else ()
    try:
        asked = subprocess.run(  # noqa: S603 - the driver's own program, and nothing of a user's
            [*_ASK, *only],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=True,
            env=without_secrets(),
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = [line.rpartition(",") for line in asked.stdout.splitlines()]
    return tuple(
        Card(name.strip(), int(mib) * 2**20) for name, _, mib in lines if mib.strip().isdigit()
    )


def _turns_by_length(folder: Path) -> bool:
    """See `LocalModel.turns_by_length`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return (rope.get("rope_type") or rope.get("type")) in _BY_LENGTH
