"""Jobs to rows to tokens: prefill a job into rows, then decode all rows together, step by step.

A job is one request: a prompt and its arms. Each arm becomes a row; every step runs one forward
pass over all rows, of whichever job, and finished rows leave. A job whose arms are all asked about
one reply becomes a `Forcing` instead, which takes some positions a step. The engine is used from
one thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from pytest_kvbench.server.alone import run_alone
from pytest_kvbench.server.attention import Draws
from pytest_kvbench.server.decoder import Decoder, Ragged
from pytest_kvbench.server.forcing import Forcing
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
from pytest_kvbench.server.making import Maker, PolicyError, Wanted
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.prefill import clock, note_of, passes, prefill
from pytest_kvbench.server.ragged import RowKV
from pytest_kvbench.server.reports import failed, report
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.rows import KV, Decoding, Leading, Prepared, Row, forward
from pytest_kvbench.server.solo import SoloKV
from pytest_kvbench.server.starting import Starting, Steps
from pytest_kvbench.server.taking import Taker
from pytest_kvbench.server.text import TextStream

__all__ = ["ArmReport", "ArmSpec", "Done", "Engine", "Event", "Job", "Piece", "Run", "Timings"]

log = logging.getLogger(__name__)

Run = Decoding | Forcing | Starting
"""What is going on, and gets its turn at every step."""


class Engine:
    """Runs jobs on a loaded model, one batch of rows after the other."""

    def __init__(
        self, model: LocalModel, prefills: PrefillCache, decoder: Decoder | None = None
    ) -> None:
        self._model = model
        self._prefills = prefills
        self._decoder = decoder or Ragged(model)
        self._maker = Maker(model)

    @property
    def model(self) -> LocalModel:
        """What it runs."""
        return self._model

    def note_memory(self, error: BaseException | None) -> None:
        """Where memory was too little, give back that of prompts that might come again."""
        if isinstance(error, torch.OutOfMemoryError):
            error.with_traceback(None)  # its frames hold what must be given back
            self._prefills.clear()
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()

    def admits(self, job: Job, runs: Sequence[Run]) -> bool:
        """Whether a job may begin beside these: there is memory for one prompt at a time."""
        self._arrange(runs)
        starting = any(isinstance(run, Starting) for run in runs)
        return not starting and self._decoder.admits(len(job.arms))

    @torch.inference_mode()
    def start(self, job: Job) -> list[Run]:
        """Prefill and compress; emits the reports and, of arms that decode, the first token.

        Where prompts are taken in several passes, this is the first.
        """
        beyond = self._decoder.beyond(len(job.arms), len(job.ids) + job.max_tokens)
        self._prefills.leave(beyond)
        job.cached_tokens = len(job.ids)
        caches: list[RowKV] = []
        # The steps do not know whose they are: in a circle with it a prompt that is given up would
        # hold its memory until somebody collects garbage.
        starting = Starting(job, caches, self._prepare(job, caches))
        return self._going_on(self._advance(starting))

    def _advance(self, starting: Starting) -> list[Run]:
        """One more pass over a prompt; after the last one, what its arms are."""
        started, job = clock(self._model.device), starting.job
        prepared = starting.advance()
        job.timings.prefill_s += clock(self._model.device) - started
        if prepared is None:
            return [starting]
        job.timings.prefill_s -= job.timings.compress_s
        return self._begin(job, prepared)

    def _begin(self, job: Job, prepared: Sequence[Prepared]) -> list[Run]:
        job.emit([one.report for one in prepared])
        job.unfinished = len(job.arms)
        for index, one in enumerate(prepared):
            if one.kv is None:
                job.unfinished -= 1
                job.emit(Piece(index, "", "error"))
        runs = self._forced(job, prepared) if job.force else self._rows(job, prepared)
        if not runs:
            self._end(job)
        return runs

    def _rows(self, job: Job, prepared: Sequence[Prepared]) -> list[Run]:
        """The arms, each with its first token."""
        rows: list[Run] = []
        for index, one in enumerate(prepared):
            if one.kv is not None and one.logits is not None:
                text = TextStream(self._model.backend, job.stops)
                row = Row(job, index, one.report, one.kv, text)
                row.take(one.logits, self._model.end_tokens)
                rows.append(row)
        return rows

    def _forced(self, job: Job, prepared: Sequence[Prepared]) -> list[Run]:
        """What asks the arms about a reply, or what decodes it."""
        if job.force and job.force.reference is not None:
            return [self._forcing(job, prepared, job.force.reference)]
        first = prepared[0]
        if first.kv is None or first.logits is None:
            raise RuntimeError("the full cache was not made")
        leading = Leading(job, prepared, first.kv)
        leading.take(first.logits, self._model.end_tokens)
        return [leading]

    def _forcing(self, job: Job, arms: Sequence[Prepared], reference: Sequence[int]) -> Forcing:
        return Forcing(self._model, job, arms, reference, self._decoder.together)

    @torch.inference_mode()
    def step(self, runs: list[Run]) -> list[Run]:
        """One more token for every row, some positions for what is forced; returns what goes on.

        Of prompts that are taken in several passes the first one gets its next.
        """
        self._arrange(runs)
        rows = [run for run in runs if isinstance(run, Decoding)]
        if rows:
            self._decode(rows)
        for run in runs:
            if isinstance(run, Forcing):
                self._ask_about(run)
        starting = next((run for run in runs if isinstance(run, Starting)), None)
        if starting is not None:
            runs = self._started(runs, starting)
        runs = self._going_on(runs)
        self._arrange(runs)  # what ended gives its place back to who comes next
        return runs

    def _arrange(self, runs: Sequence[Run]) -> None:
        rows = [run.kv for run in runs if isinstance(run, Decoding) and isinstance(run.kv, RowKV)]
        others = [kv for run in runs if not isinstance(run, Row) for kv in run.caches]
        self._decoder.arrange(rows, others)

    def _started(self, runs: list[Run], starting: Starting) -> list[Run]:
        came: list[Run] = []
        with self._alone(starting.job):
            came = self._advance(starting)
        return [*(run for run in runs if run is not starting), *came]

    def _decode(self, rows: list[Decoding]) -> None:
        started = clock(self._model.device)
        together = [row for row in rows if isinstance(row.kv, RowKV)]
        if together:
            for one in self._decoder.step(together):
                self._take(one.row, one.logits, one.likeliest)
        for row in rows:
            if isinstance(row, Row) and isinstance(row.kv, SoloKV):
                self._step_alone(row, row.kv)
        took = clock(self._model.device) - started
        for job in _jobs(rows):
            job.timings.decode_s += took

    def _ask_about(self, run: Forcing) -> None:
        started = clock(self._model.device)
        with self._alone(run.job):
            run.advance()
        run.job.timings.force_s += clock(self._model.device) - started

    def _step_alone(self, row: Row, kv: SoloKV) -> None:
        token = torch.tensor([[row.token]], device=self._model.device)
        try:
            logits = kv.forward(token, torch.tensor([[row.position]], device=self._model.device))
        except Exception as error:  # a press is anybody's program, and its arm's alone
            row.fail(error)
            self.note_memory(error)
            return
        self._take(row, logits[0])

    def _take(self, row: Decoding, logits: torch.Tensor, likeliest: int | None = None) -> None:
        with self._alone(row.job):
            row.take(logits, self._model.end_tokens, likeliest)

    def _going_on(self, runs: list[Run]) -> list[Run]:
        for job in _jobs([run for run in runs if run.done]):
            if job.unfinished == 0:
                self._end(job)
        after = [self._after(run) for run in runs if not run.job.cancelled]
        return [run for run in after if not run.done]

    def _after(self, run: Run) -> Run:
        """A reply that was decoded is what all are asked about next."""
        if not isinstance(run, Leading) or not run.done:
            return run
        if isinstance(run.kv, RowKV):
            run.kv.rewind(len(run.tokens) - 1)
        return self._forcing(run.job, run.arms, run.tokens)

    def _end(self, job: Job) -> None:
        timings = job.timings
        busy = timings.prefill_s + timings.compress_s + timings.decode_s + timings.force_s
        timings.queue_s = clock(self._model.device) - job.created - busy
        job.emit(Done(job.timings, job.cached_tokens))

    def _prepare(self, job: Job, caches: list[RowKV]) -> Steps:
        """Each arm's compressed cache of the whole prompt, the logits after it, the report.

        `caches`: takes up each cache as soon as it has a place.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        prepared: dict[int, Prepared] = {}
        for index, context in enumerate(_contexts(job)):
            if job.arms[index].goes_alone:
                prepared[index] = self._prepare_alone(job, caches, context, job.arms[index])
            else:
                groups[context].append(index)
        for context, indices in groups.items():
            arms = [job.arms[index] for index in indices]
            made = yield from self._prepare_group(job, caches, context, arms)
            prepared.update(zip(indices, made, strict=True))
        return [prepared[index] for index in range(len(job.arms))]

    def _prepare_alone(self, job: Job, caches: list[RowKV], context: int, arm: ArmSpec) -> Prepared:
        tail, wanted, seed = job.ids[context:], _wanted(arm, job), job.sampling.seed
        row = partial(self._row, caches, len(tail) + job.max_tokens)
        try:
            kv, logits = run_alone(self._model, self._maker, job.ids[:context], wanted, row, seed)
            if tail:
                (logits,) = self._ask([kv], tail, context)
        except PolicyError as error:
            self.note_memory(error.__cause__)
            return Prepared(failed(arm, error))
        job.cached_tokens = 0
        return Prepared(report(self._model, arm, kv, len(job.ids)), kv, logits)

    def _prepare_group(
        self, job: Job, caches: list[RowKV], context: int, arms: list[ArmSpec]
    ) -> Steps:
        tail = job.ids[context:]
        chunk = self._decoder.chunk
        before = yield from passes(self._model, self._prefills, job.ids[:context], chunk)
        room = len(tail) + job.max_tokens
        takers = [self._taker(job, arm, self._row(caches, room)) for arm in arms]
        done = prefill(
            self._model,
            self._prefills,
            before,
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

    def _row(self, caches: list[RowKV], room: int) -> RowKV:
        caches.append(self._decoder.row(room))
        return caches[-1]

    def _taker(self, job: Job, arm: ArmSpec, row: RowKV) -> Taker | PolicyError:
        """What takes an arm's share of a pass, or why its press cannot be made."""
        wanted = _wanted(arm, job)
        keeps_all = arm.keeps_all or wanted.ratio <= 0
        try:
            press = None if keeps_all else self._maker.press(wanted)
        except PolicyError as error:
            return error
        return Taker(wanted, press, row, Draws(job.sampling.seed, self._model.gpus))

    def _ask(self, rows: Sequence[KV], tail: Sequence[int], context: int) -> list[torch.Tensor]:
        """The question, through the compressed caches; logits (vocabulary,) after it per row."""
        device = self._model.device
        start = torch.arange(context, context + len(tail), device=device)[None]
        tokens = torch.tensor([list(tail)], device=device)
        if isinstance(rows[0], SoloKV):
            return [rows[0].forward(tokens, start)[0]]
        ragged = [row for row in rows if isinstance(row, RowKV)]
        after: list[torch.Tensor] = []
        for some in self._decoder.together(ragged):
            positions = torch.cat([start - row.shift for row in some])
            after += forward(self._model, some, tokens.expand(len(some), -1), positions)[:, -1]
        return after

    @contextlib.contextmanager
    def _alone(self, job: Job) -> Iterator[None]:
        """What goes wrong is this job's own, not its neighbours'."""
        try:
            yield
        except Exception as error:  # whatever it is, the client must hear of it
            log.exception("a job failed")
            job.cancelled = True
            self.note_memory(error)
            job.emit(error)


def _jobs(runs: Sequence[Run]) -> list[Job]:
    return list({id(run.job): run.job for run in runs}.values())


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
