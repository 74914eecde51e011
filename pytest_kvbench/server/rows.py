"""An arm after the prompt, and while it decodes; and one pass over the rows of several arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pytest_kvbench.server.drawing import Sampler
from pytest_kvbench.server.jobs import ArmReport, Job, Piece
from pytest_kvbench.server.making import failure
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.ragged import RaggedCache, RowKV
from pytest_kvbench.server.reports import final
from pytest_kvbench.server.solo import SoloKV
from pytest_kvbench.server.text import TextStream

KV = RowKV | SoloKV


@dataclass
class Prepared:
    """One arm after the prompt: its cache and the logits (vocabulary,), or why it has none."""

    report: ArmReport
    kv: KV | None = None
    logits: torch.Tensor | None = None


class Decoding:
    """One arm's cache while tokens are added to it, one a step."""

    def __init__(self, job: Job, kv: KV) -> None:
        self.job = job
        self.kv = kv
        self.tokens: list[int] = []
        self.done = False
        self._sampler = Sampler(job.sampling)

    @property
    def caches(self) -> list[RowKV]:
        """What must be kept for it, if it is in a place that others may take."""
        return [self.kv] if isinstance(self.kv, RowKV) else []

    @property
    def token(self) -> int:
        """The last token."""
        return self.tokens[-1]

    @property
    def position(self) -> int:
        """Where the last token stands."""
        return first_position(self.job, self.kv) + len(self.tokens) - 1

    def take(
        self, logits: torch.Tensor, end_tokens: frozenset[int], likeliest: int | None = None
    ) -> None:
        """Choose the next token from logits (vocabulary,); its likeliest may be there already."""
        self.tokens.append(self._sampler(logits, likeliest))
        self.done = self.token in end_tokens or len(self.tokens) == self.job.max_tokens


class Row(Decoding):
    """One arm while it decodes its reply."""

    def __init__(self, job: Job, index: int, report: ArmReport, kv: KV, text: TextStream) -> None:
        super().__init__(job, kv)
        self._report = report
        self._index = index
        self._text = text

    def take(
        self, logits: torch.Tensor, end_tokens: frozenset[int], likeliest: int | None = None
    ) -> None:
        """Choose the next token as all do, and emit its text."""
        super().take(logits, end_tokens, likeliest)
        ended = self.token in end_tokens
        text = "" if ended else self._text.push(self.token)
        if ended or self._text.stopped:
            self._finish(text, "stop")
        elif self.done:
            self._finish(text, "length")
        elif text:
            self.job.emit(Piece(self._index, text))

    def fail(self, error: Exception) -> None:
        """End this arm alone: its policy cannot go on."""
        self.done = True
        emit_failure(self.job, self._index, self._report, error, len(self.tokens))

    def _finish(self, text: str, reason: str) -> None:
        self.done = True
        self.job.unfinished -= 1
        text += self._text.finish()
        report = final_report(self._report, self.kv)
        self.job.emit(Piece(self._index, text, reason, len(self.tokens), report))


class Leading(Decoding):
    """The full cache while it decodes the reply that all `arms` of its job are asked about."""

    def __init__(self, job: Job, arms: Sequence[Prepared], kv: KV) -> None:
        super().__init__(job, kv)
        self.arms = arms

    @property
    def caches(self) -> list[RowKV]:
        """Those of its arms that do not act while decoding."""
        return [one.kv for one in self.arms if isinstance(one.kv, RowKV)]


def emit_failure(job: Job, index: int, report: ArmReport, error: Exception, tokens: int) -> None:
    """The end of an arm whose policy cannot go on, after so many tokens."""
    broken = failure(job.arms[index].policy, error, {})
    job.unfinished -= 1
    job.emit(Piece(index, "", "error", tokens, replace(report, error=str(broken))))


def final_report(report: ArmReport, kv: KV) -> ArmReport | None:
    """The report at a reply's end of a cache that may have changed meanwhile; else None."""
    return final(report, kv) if isinstance(kv, SoloKV) else None


def first_position(job: Job, kv: KV) -> int:
    """Where the first new token stands: positions continue at the prompt's original length.

    Where its keys were turned to positions without gaps, they continue there.
    """
    return len(job.ids) - (kv.shift if isinstance(kv, RowKV) else 0)


def forward(
    model: LocalModel,
    rows: Sequence[RowKV],
    tokens: torch.Tensor,
    positions: torch.Tensor,
    keep: int = 1,
) -> torch.Tensor:
    """Logits (rows, keep, vocabulary) at the last `keep` of `tokens` (rows, n) at `positions`."""
    output = model.network(
        input_ids=tokens,
        position_ids=positions,
        # The cache's rows have lengths of their own: only `ragged_attention` knows them.
        cache_position=positions[0],
        past_key_values=RaggedCache(list(rows)),
        use_cache=True,
        logits_to_keep=keep,
    )
    logits: torch.Tensor = output.logits
    return logits
