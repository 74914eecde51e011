"""Stored outcomes become observations: one per planned request."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pytest_kvbench import hints
from pytest_kvbench.analyse import arrival
from pytest_kvbench.cellkey import CellGroup, CellKey
from pytest_kvbench.engines import proof_of
from pytest_kvbench.observation import Cut, Observation, Observations, Outcome, Shared
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import (
    FULL_CACHE,
    SCORE,
    SHOWN,
    WITHHELD,
    Cell,
    Proof,
    Request,
    Telemetry,
    canonical,
)
from pytest_kvbench.rows import CellRow, MissingRow
from pytest_kvbench.score.metric import get_metric
from pytest_kvbench.store.store import Store
from pytest_kvbench.tasks.tokenizers import is_serving
from pytest_kvbench.wire.hashed import hashed

Planned = Sequence[tuple[Cell, Request]]
Outcomes = Mapping[str, Outcome]
"""By request key."""

_LONG = len(hashed("text"))
TOGETHER = 5_000  # answers whose texts and scores are held at once


def observations(
    prepared: Prepared, store: Store, planned: Planned, *, texts: bool = False
) -> Observations:
    """One per planned request that has an answer or a failure.

    A treatment is proven only against a control that saw as many tokens: where `planned` has the
    control's request too, another count leaves it unverified.

    Args:
        prepared: the group.
        store: its answers.
        planned: the requests.
        texts: whether long replies are needed word for word; else their hashes stand for them.
            Samples that vote always are.
    """
    whole = texts or bool(prepared.experiment.votes)
    entries = [
        (entry.example, manifest.metric)
        for manifest in prepared.manifests.values()
        for entry in manifest.entries
    ]
    clusters = {example.example_id: example.cluster for example, _ in entries}
    chances = {
        example.example_id: get_metric(metric).chance(example.meta) for example, metric in entries
    }
    largest = {
        (task, bin_.index): manifest.largest_context(bin_.index)
        for task, manifest in prepared.manifests.items()
        for bin_ in manifest.bins
    }
    stored = Observations(
        Observation(
            cell=cell,
            replicate=request.replicate,
            aa=request.is_repeat,
            example_id=request.example_id,
            cluster=clusters[request.example_id],
            chance=chances[request.example_id] if cell.measure == SCORE else 0.0,
            proof=proof_of(request.arm, _achieved(outcome)),
            outcome=_held(outcome if cell.measure == SCORE else _of_distributions(outcome), whole),
            largest=largest[cell.task, cell.bin],
        )
        for cell, request, outcome in _with_outcomes(store, planned)
    )
    return stored.with_columns(proof=_proofs(stored), cut=_cuts(prepared, stored))


def _held(outcome: Outcome, whole: bool) -> Outcome:
    text = outcome.text
    if whole or text is None or len(text) <= _LONG:
        return outcome
    return outcome._replace(text=hashed(text))


def _of_distributions(outcome: Outcome) -> Outcome:
    """What came, with what its distributions are in place of the reply that all arms share."""
    if outcome.text is None:
        return outcome
    return outcome._replace(text=canonical(dict(outcome.parts or {})).decode())


def _proofs(stored: Observations) -> Iterator[Proof]:
    """Those of the telemetry, less where the control saw another number of tokens."""
    tokens = {
        one.shared: one.outcome.prompt_tokens
        for one in stored
        if one.cell.is_control and not one.aa
    }
    return (_proof(one, tokens.get(one.shared)) for one in stored)


def _proof(one: Observation, control_tokens: int | None) -> Proof:
    tokens = one.outcome.prompt_tokens
    differs = None not in (tokens, control_tokens) and tokens != control_tokens
    shown = one.proof in SHOWN
    return "unverified" if differs and shown else one.proof


def _cuts(prepared: Prepared, stored: Observations) -> Iterator[Cut | None]:
    """How the prompt of each stored outcome was cut, by the counts of all of them."""
    ours = {
        (manifest.task, entry.example.example_id): entry.tokens
        for manifest in prepared.manifests.values()
        for entry in manifest.entries
    }
    serving = {task: is_serving(m.tokenizer) for task, m in prepared.manifests.items()}
    cells = stored.column("cell")
    arms = {cell: replace(cell, bin=0) for cell in cells.values}
    prompts: dict[Prompted, Prompted] = {}  # each once: arms share them
    whole = array("I", (at for at, cell in enumerate(cells) if cell.policy != WITHHELD))
    cuts = arrival.cuts(
        [
            arrival.Sent(
                arm=arms[one.cell],
                prompt=prompts.setdefault(name := _prompted(one), name),
                ours=ours[one.cell.task, one.example_id],
                serving=serving[one.cell.task],
                theirs=one.outcome.prompt_tokens,
            )
            for one in stored.at(whole)
        ]
    )
    found = {place: cut for place, cut in zip(whole, cuts, strict=True) if cut}
    return map(found.get, range(len(stored)))


Prompted = tuple[str, str, str]


def _prompted(one: Observation) -> Prompted:
    """By what the prompt of an observation is told from others."""
    return one.cell.task, one.cell.variant, one.example_id


def _with_outcomes(store: Store, planned: Planned) -> Iterator[tuple[Cell, Request, Outcome]]:
    """The planned requests that have an outcome, each with it."""
    for start in range(0, len(planned), TOGETHER):
        some = planned[start : start + TOGETHER]
        outcomes = store.outcomes([request.key for _, request in some])
        for cell, request in some:
            if (outcome := outcomes.get(request.key)) is not None:
                yield cell, request, outcome


def voted(prepared: Prepared, store: Store, planned: Planned) -> Observations:
    """The observations that are judged: where samples vote, one per vote (see `votes`)."""
    observed = observations(prepared, store, planned)
    return votes(observed, prepared.experiment, prepared.manifests)


def stored_outcomes(prepared: Prepared, store: Store, planned: Planned) -> Outcomes:
    """The stored outcomes that sampling decides by, by key; of a sample that of its vote."""
    if not prepared.experiment.votes:
        return store.outcomes([request.key for _, request in planned])
    return outcomes_of(voted(prepared, store, planned))


def outcomes_of(judged: Iterable[Observation]) -> Outcomes:
    """The outcomes that sampling decides by, by key: that of a vote for each of its samples."""
    return {key: one.outcome for one in judged for key in one.keys}


def _place(cell: Cell, request: Request) -> Shared:
    return Shared(cell.control, request.example_id, request.replicate)


def _achieved(outcome: Outcome) -> Telemetry | None:
    if outcome.text is None:
        return None
    return Telemetry(
        latency_s=outcome.latency_s,
        achieved=outcome.achieved,
        kept_bytes=outcome.kept_bytes,
        full_bytes=outcome.full_bytes,
        prompt_tokens=outcome.prompt_tokens,
    )


def missing_cells(
    prepared: Prepared,
    planned: Planned,
    observed: Observations,
    cells: Iterable[CellRow],
) -> list[MissingRow]:
    """The cells of the plan that lack an outcome for some request, how many, and why if known.

    Where a control is not sane, by `cells`, none does: it is asked no more, nor are its treatments.
    Where something is gated, a bin without examples is lacking too: nobody measured it.
    """
    cut = {group: f": {how}" for group, how in cut_controls(prepared, planned, observed).items()}
    sick = {CellKey.of_row(r).group for r in cells if r["policy"] == FULL_CACHE and r["reason"]}
    have = {key for one in observed for key in one.keys}
    lacking: dict[Cell, int] = {}
    total: dict[Cell, int] = {}
    for cell, request in planned:
        total[cell] = total.get(cell, 0) + 1
        lacking[cell] = lacking.get(cell, 0) + (request.key not in have)
    gates = prepared.experiment.gate.mode != "measure"
    found = {cell: without_example(prepared, cell) for cell in prepared.cells if gates}
    for cell, n in lacking.items():
        if n and not prepared.is_beside(cell) and CellGroup.of(cell) not in sick:
            lost = (
                "not run" if n == total[cell] else f"{hints.part(n, total[cell], 'answer')} missing"
            )
            found[cell] = lost + cut.get(CellGroup.of(cell), "")
    return [{**CellKey.of(cell).columns(), "reason": why} for cell, why in found.items() if why]


def without_example(prepared: Prepared, cell: Cell) -> str:
    """Why nothing can be asked of a cell: its bin is empty; "" where it has examples."""
    manifest = prepared.manifests[cell.task]
    if manifest.of_bin(cell.bin):
        return ""
    return (
        f"the data of {cell.task} have no example in bin {cell.bin} "
        f"({manifest.bins[cell.bin].label})"
    )


def cut_controls(
    prepared: Prepared,
    planned: Planned,
    observed: Iterable[Observation],
) -> dict[CellGroup, str]:
    """How the server cut the prompts of a control, by group, where that leaves nothing to measure.

    That is where more are cut than `gate.max_cut` of all that are planned, or most of those seen.
    """
    asked = Counter(
        CellGroup.of(cell) for cell, r in planned if cell.is_control and not r.is_repeat
    )
    seen: dict[CellGroup, list[Cut | None]] = {}
    for one in observed:
        if one.cell.is_control and not one.aa:
            seen.setdefault(CellGroup.of(one.cell), []).append(one.cut)
    most, found = prepared.experiment.gate.max_cut, dict[CellGroup, str]()
    for group, every in seen.items():
        cuts = [cut for cut in every if cut]
        if most < 1 and (len(cuts) > most * asked[group] or 2 * len(cuts) > len(every)):
            found[group] = f"of the full cache, {arrival.sentence(cuts, len(every))}"
    return found


def lost_cells(prepared: Prepared, store: Store, planned: Planned) -> dict[Cell, str]:
    """The cells of which more pairs were lost to failures than `gate.max_lost`, and how many.

    It needs no scores, so a run that only asks can report it. A control stands for itself.
    """
    failed = {failure.key for failure in store.failures([r.key for _, r in planned])}
    if not failed:
        return {}
    controls = {
        _place(c, r) for c, r in planned if c.is_control and not r.is_repeat and r.key in failed
    }
    lost: dict[Cell, list[bool]] = {}
    for cell, request in planned:
        if not request.is_repeat:
            pair = request.key in failed or _place(cell, request) in controls
            lost.setdefault(cell, []).append(pair)
    most = prepared.experiment.gate.max_lost
    return {
        cell: hints.lost(sum(pairs), len(pairs))
        for cell, pairs in lost.items()
        if sum(pairs) / len(pairs) > most and not prepared.is_beside(cell)
    }
