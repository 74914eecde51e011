"""What a reader must know before believing a number. Prose (see `text`), no markup."""

from __future__ import annotations

from pytest_kvbench import hints
from pytest_kvbench.cellkey import CellKey, Columns
from pytest_kvbench.experiment.snapshot import Snapshot
from pytest_kvbench.report import text
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series
from pytest_kvbench.report.text import name


def warnings(results: Results) -> list[str]:
    """Placebos and notes: what a reader must know before believing a number.

    Notes sum up the flags of cells; only where nobody made them, the flags stand for themselves.
    """
    notes = [*results.integrity["placebos"], *results.integrity["notes"]]
    flags = [f"{name(item(cell))}: {flag}" for cell in results.cells for flag in cell["flags"]]
    return list(dict.fromkeys(notes or flags))


def notice(results: Results) -> tuple[str, ...]:
    """What stands before everything when the run is partial."""
    if not results.is_partial:
        return ()
    rows = results.missing
    named = text.listing((name(item(r)) for r in rows), limit=10) if rows else "not named"
    return (
        f"Partial run: {hints.count(len(rows), 'cell')} missing ({named}).",
        "What is said below is about the rest. The same command again measures what is missing "
        "and asks nothing twice.",
    )


def item(row: Columns) -> str:
    """The pytest id of a row's cell; a row pooled over bins has none and is described."""
    return item_of(CellKey.of_row(row))


def item_of(key: CellKey) -> str:
    """As `item`, by the cell's key."""
    if key.cell is not None:
        return key.cell.item_id
    return f"{Series(key.task, key.variant).label} all bins {key.policy} {text.budget(key.budget)}"


def limitations(results: Results) -> list[str]:
    """What the numbers do not say."""
    aware = results.declared.get("kv.question_aware")
    sentences = [
        "The verdicts are about this model, these tasks and these prompt lengths. Retrieval of a "
        "planted fact is not quality at large.",
        "A bracket can be no finer than the ladder of budgets, and `undetermined` is not `holds`: "
        "it means that there are too few examples to tell.",
        "An answer's latency is that of the request that brought it. Where one request serves "
        "several budgets from a single prefill it is nobody's and is not shown: "
        "`engine.sweep: false` with `--kvbench-fresh` asks each arm alone.",
    ]
    if aware is True:
        sentences.append(
            "The policies saw the question (`question_aware: true`). A cache compressed before the "
            "question is known, as for reuse, loses more."
        )
    if aware is False:
        sentences.append("The policies did not see the question (`question_aware: false`).")
    if _is_greedy(results.declared):
        greedy = "Answers are greedy (temperature 0), one reply an example."
        sentences.append(f"{greedy} {_noise(results)}")
    if (samples := results.declared.get("sampling.self_consistency") or 1) > 1:
        sentences.append(
            f"Each answer is a vote of {samples} samples (self-consistency): tokens and latency "
            "are those of all of them together."
        )
    return sentences + _wordings(results) + _proofs(results)


def _is_greedy(declared: Snapshot) -> bool:
    """Whether no arm of any variant draws its replies."""
    variants = (declared.get("variants") or {}).values()
    temperatures = (declared.get("sampling.temperature"), *(v.get("temperature") for v in variants))
    return temperatures[0] is not None and not any(temperatures)


def _noise(results: Results) -> str:
    """Whether the same request is answered alike, as far as the control's second run tells."""
    floor = results.integrity["aa"]
    if floor is None:
        return (
            "Whether one request is answered alike every time was not tried (`aa: true` does): a "
            "server that decodes several together may not."
        )
    replies, same, declared = floor["replies"], floor["same"], results.declared
    at_once = declared.get("engine.mode") != "batch" and declared.get("engine.concurrency")
    used = f" at {hints.count(at_once, 'request')} in flight" if at_once else ""
    if same == replies:
        return f"The control's second run{used} gave all {replies:,} again: no sampling noise."
    return (
        f"Yet {replies - same:,} of {hints.count(replies, 'reply')} of the control's second "
        f"run{used} differ from the first: the server does not answer alike, and single changed "
        "answers are no sign of the policy."
    )


def _wordings(results: Results) -> list[str]:
    ours = [name(t["task"]) for t in results.tasks if t["prompts"] == "own"]
    if not ours:
        return []
    return [
        f"{text.listing(ours)}: the prompts are in our own wording, not the benchmark's, so that "
        "scores do not compare with published ones. Verdicts do: both arms had the same prompts."
    ]


def _proofs(results: Results) -> list[str]:
    found = []
    for proof, sentence in _PROOF_SENTENCES.items():
        some = [c for c in results.treated() if c["proof"] == proof]
        if some:
            policies = text.listing(dict.fromkeys(name(c["policy"]) for c in some))
            found.append(sentence.format(policies))
    return found


_PROOF_SENTENCES = {
    "unverified": "The engine claims but does not prove what it kept for {} (`unverified`).",
    "simulated": "No byte is freed by {} (`simulated`): they mask what another engine would evict; "
    "`achieved` is the share that is not masked, and quality verdicts stand.",
}
