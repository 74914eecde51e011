"""Jobs to rows to tokens: prefill a job into rows, then decode all rows together, step by step.

A job is one request: a prompt and its arms. Each arm becomes a row; every step runs one forward
pass over all rows, of whichever job, and finished rows leave. The engine is used from one thread.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_kvbench.policies.table import Policy
from pytest_kvbench.server.drawing import Sampler, Sampling
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.prefill import Share, clock, prefill
from pytest_kvbench.server.ragged import RaggedCache, RowKV
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.text import TextStream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArmSpec:
    """One arm of a job, checked.

    `context` is the number of leading tokens the policy sees and compresses; None: all of them
    (the policy is question-aware).
    """

    policy: Policy
    params: Mapping[str, Any]
    budget: float
    context: int | None = None


@dataclass(frozen=True)
class ArmReport:
    """What one arm's cache really is, measured before the first new token."""

    policy: str
    budget: float
    achieved: float
    kept_bytes: int
    full_bytes: int
    kept_tokens: float
    question_aware: bool
    note: str


@dataclass(frozen=True)
class Piece:
    """Text of arm `index`; the last one has a finish reason and the number of new tokens."""

    index: int
    text: str
    finish_reason: str | None = None
    completion_tokens: int = 0


@dataclass
class Timings:
    """Where a job's time went, in seconds.

    `decode_s` counts steps this job took part in, alone or with others; `queue_s` is the rest of
    the wall time: waiting for other jobs, before this one began or between its steps.
    """

    queue_s: float = 0.0
    prefill_s: float = 0.0
    compress_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Done:
    """A job's end: where its time went, and how much of the prompt no pass had to compute."""

    timings: Timings
    cached_tokens: int


Event = list[ArmReport] | Piece | Done | Exception
"""What a job emits: reports once, pieces, then its end; or an exception at any point."""


@dataclass
class Job:
    """One request on its way through the engine. `cancelled` may be set from any thread."""

    ids: Sequence[int]
    arms: Sequence[ArmSpec]
    max_tokens: int
    sampling: Sampling
    stops: Sequence[str]
    emit: Callable[[Event], None]
    cancelled: bool = False
    created: float = 0.0
    timings: Timings = field(default_factory=Timings)
    cached_tokens: int = 0
    unfinished: int = 0


class Row:
    """One arm while it decodes."""

    def __init__(self, job: Job, index: int, kv: RowKV, text: TextStream) -> None:
        self.job = job
        self.kv = kv
        self.token = 0
        self.done = False
        self._index = index
        self._text = text
        self._sampler = Sampler(job.sampling)
        self._count = 0

    @property
    def position(self) -> int:
        """Where the last token stands: positions continue at the prompt's original length."""
        return len(self.job.ids) + self._count - 1

    def take(self, logits: torch.Tensor, end_tokens: frozenset[int]) -> None:
        """Choose the next token from logits (vocabulary,) and emit its text."""
        self.token = self._sampler(logits)
        self._count += 1
        ended = self.token in end_tokens
        text = "" if ended else self._text.push(self.token)
        if ended or self._text.stopped:
            self._finish(text, "stop")
        elif self._count == self.job.max_tokens:
            self._finish(text, "length")
        elif text:
            self.job.emit(Piece(self._index, text))

    def _finish(self, text: str, reason: str) -> None:
        self.done = True
        self.job.unfinished -= 1
        self.job.emit(Piece(self._index, text + self._text.finish(), reason, self._count))


class Engine:
    """Runs jobs on a loaded model, one batch of rows after the other."""

    def __init__(self, model: LocalModel, prefills: PrefillCache) -> None:
        self._model = model
        self._prefills = prefills

    @torch.inference_mode()
    def start(self, job: Job) -> list[Row]:
        """Prefill and compress; emits the reports and each arm's first token."""
        started = clock(self._model.device)
        job.cached_tokens = len(job.ids)
        prepared = self._prepare(job)
        took = clock(self._model.device) - started
        job.timings.prefill_s = took - job.timings.compress_s
        job.emit([report for _, _, report in prepared])
        job.unfinished = len(job.arms)
        rows = []
        for index, (kv, logits, _) in enumerate(prepared):
            row = Row(job, index, kv, TextStream(self._model.backend, job.stops))
            row.take(logits, self._model.end_tokens)
            rows.append(row)
        return self._still_running(rows)

    @torch.inference_mode()
    def step(self, rows: list[Row]) -> list[Row]:
        """One more token for every row; returns those that go on."""
        started = clock(self._model.device)
        tokens = torch.tensor([[row.token] for row in rows], device=self._model.device)
        positions = torch.tensor([[row.position] for row in rows], device=self._model.device)
        logits = self._forward(tokens, positions, [row.kv for row in rows])
        for row, row_logits in zip(rows, logits, strict=True):
            self._take(row, row_logits)
        took = clock(self._model.device) - started
        for job in _jobs(rows):
            job.timings.decode_s += took
        return self._still_running(rows)

    def _take(self, row: Row, logits: torch.Tensor) -> None:
        """One row's token; what goes wrong with it is its own job's, not its neighbours'."""
        try:
            row.take(logits, self._model.end_tokens)
        except Exception as error:  # whatever it is, the client must hear of it
            log.exception("a row failed")
            row.job.cancelled = True
            row.job.emit(error)

    def _still_running(self, rows: list[Row]) -> list[Row]:
        for job in _jobs([row for row in rows if row.done]):
            if job.unfinished == 0:
                timings = job.timings
                busy = timings.prefill_s + timings.compress_s + timings.decode_s
                timings.queue_s = clock(self._model.device) - job.created - busy
                job.emit(Done(job.timings, job.cached_tokens))
        return [row for row in rows if not row.done and not row.job.cancelled]

    def _prepare(self, job: Job) -> list[tuple[RowKV, torch.Tensor, ArmReport]]:
        """Per arm: its compressed cache of the whole prompt, the logits after it, the report."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index, context in enumerate(_contexts(job)):
            groups[context].append(index)
        prepared: dict[int, tuple[RowKV, torch.Tensor, ArmReport]] = {}
        for context, indices in groups.items():
            arms = [job.arms[index] for index in indices]
            prepared.update(zip(indices, self._prepare_group(job, context, arms), strict=True))
        return [prepared[index] for index in range(len(job.arms))]

    def _prepare_group(
        self, job: Job, context: int, arms: list[ArmSpec]
    ) -> list[tuple[RowKV, torch.Tensor, ArmReport]]:
        shares = [Share(arm.policy, arm.params, removed(arm, len(job.ids))) for arm in arms]
        tail = job.ids[context:]
        done = prefill(
            self._model, self._prefills, job.ids[:context], shares, len(tail) + job.max_tokens
        )
        job.timings.compress_s += done.compress_s
        job.cached_tokens = min(job.cached_tokens, done.cached_tokens)
        logits = self._ask(done.rows, tail, context) if tail else [done.logits] * len(arms)
        # The tail's tensors have the same bytes per token as the context's.
        full_bytes = done.full_bytes * len(job.ids) // context
        reports = [
            _report(arm, row, note, full_bytes)
            for arm, row, note in zip(arms, done.rows, done.notes, strict=True)
        ]
        return list(zip(done.rows, logits, reports, strict=True))

    def _ask(self, rows: list[RowKV], tail: Sequence[int], context: int) -> Sequence[torch.Tensor]:
        """The question, through the compressed caches; logits (vocabulary,) after it per row."""
        tokens = torch.tensor([list(tail)] * len(rows), device=self._model.device)
        start = torch.arange(context, context + len(tail), device=self._model.device)
        return list(self._forward(tokens, start.expand(len(rows), -1), rows))

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, rows: list[RowKV]
    ) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last of `tokens` (rows, n) at `positions`."""
        output = self._model.network(
            input_ids=tokens,
            position_ids=positions,
            # The cache's rows have lengths of their own: only `ragged_attention` knows them.
            cache_position=positions[0],
            past_key_values=RaggedCache(rows),
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _jobs(rows: list[Row]) -> list[Job]:
    return list({id(row.job): row.job for row in rows}.values())


def _contexts(job: Job) -> list[int]:
    """How many leading tokens each arm's prefill covers.

    An arm that keeps everything is the same either way, so it joins whatever prefill is needed.
    """
    needed = [arm.context or len(job.ids) for arm in job.arms if arm.budget < 1]
    anywhere = min(needed, default=len(job.ids))
    return [(arm.context or len(job.ids)) if arm.budget < 1 else anywhere for arm in job.arms]


def removed(arm: ArmSpec, tokens: int) -> float:
    """The share of the compressed part to remove, so that the whole prompt keeps `arm.budget`.

    A policy that is not question-aware leaves the question whole, so the context gives more.
    """
    if arm.context is None:
        return 1 - arm.budget
    question = tokens - arm.context
    return 1 - (arm.budget * tokens - question) / arm.context


def _report(arm: ArmSpec, row: RowKV, note: str, full_bytes: int) -> ArmReport:
    return ArmReport(
        policy=arm.policy.name,
        budget=arm.budget,
        achieved=row.nbytes / full_bytes,
        kept_bytes=row.nbytes,
        full_bytes=full_bytes,
        kept_tokens=row.tokens,
        question_aware=arm.context is None,
        note=note,
    )
