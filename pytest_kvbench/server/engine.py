"""Jobs to rows to tokens: prefill a job into rows, then decode all rows together, step by step.

A job is one request: a prompt and its arms. Each arm becomes a row; every step runs one forward
pass over all rows, of whichever job, and finished rows leave. The engine is used from one thread.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pytest_kvbench.server.alone import run_alone
from pytest_kvbench.server.attention import Draws
from pytest_kvbench.server.drawing import Sampler
from pytest_kvbench.server.jobs import (
    ArmReport,
    ArmSpec,
    Done,
    Event,
    Job,
    Piece,
    Timings,
    removed,
)
from pytest_kvbench.server.making import Maker, PolicyError, Wanted, failure
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.prefill import clock, note_of, prefill
from pytest_kvbench.server.ragged import RaggedCache, RowKV
from pytest_kvbench.server.reports import failed, final, report
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.solo import SoloKV
from pytest_kvbench.server.taking import Taker
from pytest_kvbench.server.text import TextStream

__all__ = ["ArmReport", "ArmSpec", "Done", "Engine", "Event", "Job", "Piece", "Row", "Timings"]

log = logging.getLogger(__name__)

KV = RowKV | SoloKV


@dataclass
class Prepared:
    """One arm after the prompt: its cache and the logits (vocabulary,), or why it has none."""

    report: ArmReport
    kv: KV | None = None
    logits: torch.Tensor | None = None


class Row:
    """One arm while it decodes."""

    def __init__(self, job: Job, index: int, report: ArmReport, kv: KV, text: TextStream) -> None:
        self.job = job
        self.kv = kv
        self._report = report
        self.token = 0
        self.done = False
        self._index = index
        self._text = text
        self._sampler = Sampler(job.sampling)
        self._count = 0

    @property
    def position(self) -> int:
        """Where the last token stands: positions continue at the prompt's original length.

        Where its keys were turned to positions without gaps, they continue there.
        """
        shift = self.kv.shift if isinstance(self.kv, RowKV) else 0
        return len(self.job.ids) + self._count - 1 - shift

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

    def fail(self, error: Exception) -> None:
        """End this arm alone: its policy cannot go on."""
        broken = failure(self.job.arms[self._index].policy, error, {})
        self.done = True
        self.job.unfinished -= 1
        ended = replace(self._report, error=str(broken))
        self.job.emit(Piece(self._index, "", "error", self._count, ended))

    def _finish(self, text: str, reason: str) -> None:
        self.done = True
        self.job.unfinished -= 1
        ended = final(self._report, self.kv) if isinstance(self.kv, SoloKV) else None
        self.job.emit(Piece(self._index, text + self._text.finish(), reason, self._count, ended))


class Engine:
    """Runs jobs on a loaded model, one batch of rows after the other."""

    def __init__(self, model: LocalModel, prefills: PrefillCache) -> None:
        self._model = model
        self._prefills = prefills
        self._maker = Maker(model)

    @torch.inference_mode()
    def start(self, job: Job) -> list[Row]:
        """Prefill and compress; emits the reports and each arm's first token."""
        started = clock(self._model.device)
        job.cached_tokens = len(job.ids)
        prepared = self._prepare(job)
        took = clock(self._model.device) - started
        job.timings.prefill_s = took - job.timings.compress_s
        job.emit([one.report for one in prepared])
        job.unfinished = len(job.arms)
        rows = []
        for index, one in enumerate(prepared):
            if one.kv is None or one.logits is None:
                job.unfinished -= 1
                job.emit(Piece(index, "", "error"))
                continue
            text = TextStream(self._model.backend, job.stops)
            row = Row(job, index, one.report, one.kv, text)
            row.take(one.logits, self._model.end_tokens)
            rows.append(row)
        if not rows:
            self._end(job)
        return self._still_running(rows)

    @torch.inference_mode()
    def step(self, rows: list[Row]) -> list[Row]:
        """One more token for every row; returns those that go on."""
        started = clock(self._model.device)
        together = [(row, kv) for row in rows if isinstance(kv := row.kv, RowKV)]
        if together:
            self._step_together([row for row, _ in together], [kv for _, kv in together])
        for row in rows:
            if isinstance(row.kv, SoloKV):
                self._step_alone(row, row.kv)
        took = clock(self._model.device) - started
        for job in _jobs(rows):
            job.timings.decode_s += took
        return self._still_running(rows)

    def _step_together(self, rows: list[Row], caches: list[RowKV]) -> None:
        tokens = torch.tensor([[row.token] for row in rows], device=self._model.device)
        positions = torch.tensor([[row.position] for row in rows], device=self._model.device)
        logits = self._forward(tokens, positions, caches)
        for row, row_logits in zip(rows, logits, strict=True):
            self._take(row, row_logits)

    def _step_alone(self, row: Row, kv: SoloKV) -> None:
        token = torch.tensor([[row.token]], device=self._model.device)
        try:
            logits = kv.forward(token, torch.tensor([[row.position]], device=self._model.device))
        except Exception as error:  # a press is anybody's program, and its arm's alone
            row.fail(error)
            return
        self._take(row, logits[0])

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
                self._end(job)
        return [row for row in rows if not row.done and not row.job.cancelled]

    def _end(self, job: Job) -> None:
        timings = job.timings
        busy = timings.prefill_s + timings.compress_s + timings.decode_s
        timings.queue_s = clock(self._model.device) - job.created - busy
        job.emit(Done(job.timings, job.cached_tokens))

    def _prepare(self, job: Job) -> list[Prepared]:
        """Each arm's compressed cache of the whole prompt, the logits after it, the report."""
        groups: dict[int, list[int]] = defaultdict(list)
        prepared: dict[int, Prepared] = {}
        for index, context in enumerate(_contexts(job)):
            if job.arms[index].goes_alone:
                prepared[index] = self._prepare_alone(job, context, job.arms[index])
            else:
                groups[context].append(index)
        for context, indices in groups.items():
            arms = [job.arms[index] for index in indices]
            prepared.update(zip(indices, self._prepare_group(job, context, arms), strict=True))
        return [prepared[index] for index in range(len(job.arms))]

    def _prepare_alone(self, job: Job, context: int, arm: ArmSpec) -> Prepared:
        tail = job.ids[context:]
        room, seed = len(tail) + job.max_tokens, job.sampling.seed
        try:
            kv, logits = run_alone(
                self._model, self._maker, job.ids[:context], _wanted(arm, job), room, seed
            )
            if tail:
                (logits,) = self._ask([kv], tail, context)
        except PolicyError as error:
            return Prepared(failed(arm, error))
        job.cached_tokens = 0
        return Prepared(report(self._model, arm, kv, len(job.ids)), kv, logits)

    def _prepare_group(self, job: Job, context: int, arms: list[ArmSpec]) -> list[Prepared]:
        tail = job.ids[context:]
        takers = [self._taker(job, arm, len(tail) + job.max_tokens) for arm in arms]
        done = prefill(
            self._model,
            self._prefills,
            job.ids[:context],
            [one for one in takers if isinstance(one, Taker)],
        )
        job.timings.compress_s += done.compress_s
        job.cached_tokens = min(job.cached_tokens, done.cached_tokens)
        fine = [one for one in done.arms if one.error is None]
        logits = self._ask([one.row for one in fine], tail, context) if tail and fine else None
        after = dict(zip(map(id, fine), logits or [done.logits] * len(fine), strict=True))
        prepared = []
        for arm, one in zip(arms, takers, strict=True):
            error = one.error if isinstance(one, Taker) else one
            if not isinstance(one, Taker) or error is not None:
                prepared.append(Prepared(failed(arm, error)))
                continue
            note = note_of(self._model, one.press, context)
            made = report(self._model, arm, one.row, len(job.ids), note)
            prepared.append(Prepared(made, one.row, after[id(one)]))
        return prepared

    def _taker(self, job: Job, arm: ArmSpec, room: int) -> Taker | PolicyError:
        """What takes an arm's share of a pass, or why its press cannot be made."""
        wanted = _wanted(arm, job)
        row = RowKV(len(self._model.attention_layers), room)
        keeps_all = arm.keeps_all or wanted.ratio <= 0
        try:
            press = None if keeps_all else self._maker.press(wanted)
        except PolicyError as error:
            return error
        return Taker(wanted, press, row, Draws(job.sampling.seed, self._model.device))

    def _ask(self, rows: Sequence[KV], tail: Sequence[int], context: int) -> list[torch.Tensor]:
        """The question, through the compressed caches; logits (vocabulary,) after it per row."""
        device = self._model.device
        start = torch.arange(context, context + len(tail), device=device)[None]
        tokens = torch.tensor([list(tail)], device=device)
        if isinstance(rows[0], SoloKV):
            return [rows[0].forward(tokens, start)[0]]
        ragged = [row for row in rows if isinstance(row, RowKV)]
        positions = torch.cat([start - row.shift for row in ragged])
        return list(self._forward(tokens.expand(len(ragged), -1), positions, ragged))

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


def _wanted(arm: ArmSpec, job: Job) -> Wanted:
    tokens = len(job.ids)
    target = max(1, round(arm.budget * tokens))
    return Wanted(arm.policy, arm.params, removed(arm, tokens), target)


def _contexts(job: Job) -> list[int]:
    """How many leading tokens each arm's prefill covers.

    An arm that keeps everything is the same either way, so it joins whatever prefill is needed.
    """
    needed = [arm.context or len(job.ids) for arm in job.arms if arm.budget < 1]
    anywhere = min(needed, default=len(job.ids))
    return [(arm.context or len(job.ids)) if arm.budget < 1 else anywhere for arm in job.arms]
