"""One reply, asked about of every arm at once: how likely each of its tokens is, and how far off.

Right after the prompt is compressed the reply's tokens go through all caches, some positions at a
time, and of the distributions at each only figures are kept. Caches that their policy acts on while
decoding, or that have fewer bits, are given token after token, as when they decode.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_kvbench.divergence import measures
from pytest_kvbench.server.jobs import ArmReport, Forced, Job, Piece
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.ragged import RowKV
from pytest_kvbench.server.rows import (
    KV,
    Prepared,
    emit_failure,
    final_report,
    first_position,
    forward,
)
from pytest_kvbench.server.solo import SoloKV

Together = Callable[[Sequence[RowKV]], list[list[RowKV]]]
"""See `decoder.Decoder.together`."""

_MOST_LOGITS = 2**25
"""Logits of all rows that are there at once: 128 MiB."""
_MOST_TOKENS = 2**10  # of all rows in one pass: a layer's activations are bounded, too
_BLOCK = 2**18  # logits that are compared at once: they stay in a core's cache
_DECIMALS = 7  # of what float32 computes


@dataclass
class Asked:
    """One arm, its cache and the logits (1, vocabulary) after the prompt; its figures so far."""

    index: int
    report: ArmReport
    kv: KV
    logits: torch.Tensor
    columns: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    error: Exception | None = None

    def add(self, figures: Mapping[str, torch.Tensor]) -> None:
        """Figures of the next positions."""
        if not all(bool(values.isfinite().all()) for values in figures.values()):
            self.error = ValueError("its probabilities are no numbers: another dtype may have them")
        for name, values in figures.items():
            self.columns[name].extend(values.tolist())


class Forcing:
    """A job's reply on its way through the caches of its arms; the first has the full cache."""

    def __init__(
        self,
        model: LocalModel,
        job: Job,
        arms: Sequence[Prepared],
        reference: Sequence[int],
        together: Together,
    ) -> None:
        self.job = job
        self.done = False
        self._model = model
        self._together = together
        self._reference = torch.tensor(list(reference), device=model.device)
        self._arms = [
            Asked(index, one.report, one.kv, one.logits[None])
            for index, one in enumerate(arms)
            if one.kv is not None and one.logits is not None
        ]
        self._asked = 0

    @property
    def caches(self) -> list[RowKV]:
        """Those of its arms that do not act while decoding."""
        return [one.kv for one in self._arms if isinstance(one.kv, RowKV)]

    @torch.inference_mode()
    def advance(self) -> None:
        """The next positions of all arms; after the last ones, the arms' ends."""
        if self._asked:
            self._compare(self._logits(min(self._most, len(self._reference) - self._asked)))
        else:
            self._compare({one.index: one.logits for one in self._arms})
        if self._asked == len(self._reference):
            self._end()

    @property
    def _most(self) -> int:
        """How many positions may be looked at in one pass."""
        rows, vocabulary = len(self._arms), self._arms[0].logits.shape[-1]
        return max(1, min(_MOST_LOGITS // (rows * vocabulary), _MOST_TOKENS // rows))

    def _logits(self, count: int) -> dict[int, torch.Tensor]:
        """By arm: logits (count, vocabulary) at the next positions."""
        before = self._asked - 1
        tokens = self._reference[before : before + count]
        places = torch.arange(before, before + count, device=self._model.device)
        together = {one.index: kv for one in self._arms if isinstance(kv := one.kv, RowKV)}
        logits: list[torch.Tensor] = []
        for rows in self._together(list(together.values())):
            positions = torch.stack([places + first_position(self.job, kv) for kv in rows])
            logits += forward(self._model, rows, tokens.expand(len(rows), -1), positions, count)
        found = dict(zip(together, logits, strict=True))
        for one in self._arms:
            if isinstance(one.kv, SoloKV):
                found |= self._step_by_step(one, one.kv, tokens, places)
        return found

    def _step_by_step(
        self, one: Asked, kv: SoloKV, tokens: torch.Tensor, places: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        positions = places + first_position(self.job, kv)
        try:
            steps = [
                kv.forward(token.view(1, 1), position.view(1, 1))
                for token, position in zip(tokens, positions, strict=True)
            ]
        except Exception as error:  # a press is anybody's program, and its arm's alone
            one.error = error
            return {}
        return {one.index: torch.cat(steps)}

    def _compare(self, logits: Mapping[int, torch.Tensor]) -> None:
        """Take the figures of the next positions out of their logits."""
        self._drop_failed()
        count, vocabulary = logits[0].shape
        targets = self._reference[self._asked : self._asked + count]
        # A GPU has no such cache, and would be waited for a dozen times a block and arm.
        on_cpu = self._model.device.type == "cpu"
        size = max(1, _BLOCK // vocabulary) if on_cpu else count
        for at in range(0, count, size):
            control = _logs(logits[0][at : at + size])
            for one in self._arms:
                arm = _logs(logits[one.index][at : at + size])
                one.add(_figures(control, arm, targets[at : at + size]))
        self._asked += count
        self._drop_failed()

    def _drop_failed(self) -> None:
        if (control := self._arms[0]).error is not None:  # what all others are compared with
            raise control.error
        for one in self._arms:
            if one.error is not None:
                emit_failure(self.job, one.index, one.report, one.error, self._asked)
        self._arms = [one for one in self._arms if one.error is None]

    def _end(self) -> None:
        self.done = True
        reference = self._reference.tolist()
        text = self._model.decode(reference)
        reason = "stop" if reference[-1] in self._model.end_tokens else "length"
        for one in self._arms:
            forced = Forced(reference, **one.columns)
            report = final_report(one.report, one.kv)
            self.job.unfinished -= 1
            self.job.emit(Piece(one.index, text, reason, len(reference), report, forced))


def _logs(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1)


def _figures(
    control: torch.Tensor, arm: torch.Tensor, targets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What `Forced` holds, of log-probabilities (positions, vocabulary)."""
    top_log, top = arm.max(-1)
    found = {
        "nll": -_at(arm, targets),
        "top_nll": -top_log,
        "reference_top_nll": -_at(control, top),
        "overlap": measures.overlap(control, arm),
        "kld": measures.kld(control, arm),
    }
    rounded = {
        name: values.double().clip(0, -measures.NEVER).round(decimals=_DECIMALS) + 0.0  # no -0.0
        for name, values in found.items()
    }
    return {**rounded, "top": top}


def _at(logs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logs.gather(-1, tokens[:, None])[:, 0]
