"""What a reader must know before believing a number. Prose (see `text`), no markup."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.report import text
from pytest_kvbench.report.results import Results, Row, Series
from pytest_kvbench.report.text import name


def warnings(results: Results) -> list[str]:
    """Placebos and notes: what a reader must know before believing a number.

    Notes sum up the flags of cells; only where nobody made them, the flags stand for themselves.
    """
    integrity = results.part("integrity")
    said = [*(integrity.get("placebos") or ()), *(integrity.get("notes") or ())]
    flags = [
        f"{name(item(c))}: {flag}" for c in results.rows("cells") for flag in c.get("flags") or ()
    ]
    return list(dict.fromkeys(said or flags))


def notice(results: Results) -> tuple[str, ...]:
    """What stands before everything when the run is partial."""
    if not results.summary.get("partial"):
        return ()
    rows = results.rows("missing")
    named = text.listing((name(item(r)) for r in rows), limit=10) if rows else "not named"
    return (
        f"Partial run: {text.count(len(rows), 'cell')} missing ({named}).",
        "What is said below is about the rest. The same command again measures what is missing "
        "and asks nothing twice.",
    )


def item(row: Row) -> str:
    """The pytest id of a row's cell; a row pooled over bins has none and is described."""
    key = CellKey.of_row(row)
    if key.cell is not None:
        return key.cell.item_id
    return f"{Series(key.task, key.variant).label} all bins {key.policy} {text.budget(key.budget)}"


def limitations(results: Results) -> list[str]:
    """What the numbers do not say."""
    experiment = results.part("experiment")
    kv, sampling = experiment.get("kv") or {}, experiment.get("sampling") or {}
    said = [
        "The verdicts are about this model, these tasks and these prompt lengths. Retrieval of a "
        "planted fact is not quality at large.",
        "A bracket can be no finer than the ladder of budgets, and `undetermined` is not `holds`: "
        "it means that there are too few examples to tell.",
        "An answer's latency is that of the request that brought it. Where one request serves "
        "several budgets from a single prefill it is nobody's and is not shown: "
        "`engine.sweep: false` with `--kvbench-fresh` asks each arm alone.",
    ]
    if kv.get("question_aware") is True:
        said.append(
            "The policies saw the question (`question_aware: true`). A cache compressed before the "
            "question is known, as for reuse, loses more."
        )
    if kv.get("question_aware") is False:
        said.append("The policies did not see the question (`question_aware: false`).")
    if sampling.get("temperature") == 0 and not any(map(_temperature, _ways(experiment))):
        said.append(f"Answers are greedy (temperature 0), one reply an example. {_noise(results)}")
    if (samples := sampling.get("self_consistency") or 1) > 1:
        said.append(
            f"Each answer is a vote of {samples} samples (self-consistency): tokens and latency "
            "are those of all of them together."
        )
    return said + _wordings(results) + _proofs(results)


def _ways(experiment: Row) -> Iterable[Row]:
    return (experiment.get("variants") or {}).values()


def _temperature(way: Row) -> float:
    return way.get("temperature") or 0.0


def _noise(results: Results) -> str:
    """Whether the same request is answered alike, as far as the control's second run tells."""
    floor = results.part("integrity").get("aa") or {}
    replies, same = floor.get("replies"), floor.get("same")
    if not replies:
        return (
            "Whether one request is answered alike every time was not tried (`aa: true` does): a "
            "server that decodes several together may not."
        )
    engine = results.part("experiment").get("engine") or {}
    at_once = engine.get("mode") != "batch" and engine.get("concurrency")
    used = f" at {text.count(at_once, 'request')} in flight" if at_once else ""
    if same == replies:
        return f"The control's second run{used} gave all {replies:,} again: no sampling noise."
    return (
        f"Yet {replies - same:,} of {text.count(replies, 'reply')} of the control's second "
        f"run{used} differ from the first: the server does not answer alike, and single changed "
        "answers are no sign of the policy."
    )


def _wordings(results: Results) -> list[str]:
    own = [name(t["task"]) for t in results.rows("tasks") if t["prompts"] == "own"]
    if not own:
        return []
    return [
        f"{text.listing(own)}: the prompts are in our own wording, not the benchmark's, so that "
        "scores do not compare with published ones. Verdicts do: both arms had the same prompts."
    ]


def _proofs(results: Results) -> list[str]:
    doubtful = [c for c in results.treated() if c.get("proof") == "unverified"]
    if not doubtful:
        return []
    policies = text.listing(dict.fromkeys(name(c["policy"]) for c in doubtful))
    return [f"The engine claims but does not prove what it kept for {policies} (`unverified`)."]
