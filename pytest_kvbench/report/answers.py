"""The answer in words: sentences made from a summary. Prose (see `text`), no markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.records import WITHHELD
from pytest_kvbench.report import text
from pytest_kvbench.report.results import (
    DECIDED,
    Results,
    Row,
    Series,
    doubt,
    ends,
    ends_alone,
    final,
)
from pytest_kvbench.report.text import name

MANY = 24
"""More curves than this and the answer names the best policy of each series only."""
DOUBTS = {
    "placebo?": "possibly a placebo: the answers equal the control's",
    "unverified": "unverified: nothing proves that the budget was applied",
}
SHAPES = {
    "cliff": "The loss is a cliff.",
    "slope": "The loss is gradual.",
    "non-monotone": "The curve is not monotone: look at it before trusting the bracket.",
}


def question(results: Results) -> str:
    """What was compared with what."""
    experiment = results.part("experiment")
    model = (experiment.get("engine") or {}).get("model")
    subject = f"{name(model)} with a smaller KV cache" if model else "A smaller KV cache"
    examples = sum(row["n"] for row in results.rows("bins"))
    size = f" on {text.count(examples, 'example')}{_span(results)}" if examples else ""
    margin = text.score(results.gate["margin"])
    return (
        f"{subject} is compared with the same model and its full cache (the control){size}: "
        f"{text.count(len(results.series), 'task')}, "
        f"{text.count(len(results.policies), 'policy')}, "
        f"{text.count(results.planned, 'cell')}. A cell holds when it is shown to lose less than "
        f"{margin} of score, and breaks when it is shown to lose more."
    )


def _span(results: Results) -> str:
    """How long the prompts are, where the bins say it."""
    lows, highs = ([row.get(end) for row in results.rows("bins")] for end in ("low", "high"))
    known = [high for high in highs if high is not None]
    if None in highs:
        return f" of up to {max(known):,} tokens and longer" if known else ""
    return f" of {min(low or 0 for low in lows):,} to {max(known):,} tokens"


def lead(results: Results, series: Series) -> str:
    """The control's score, and the policy that goes lowest."""
    cells = results.headline_cells(series)
    control = next((c["control_mean"] for c in cells if c["control_mean"] is not None), None)
    over = " over all bins" if results.headline(series) == ALL_BINS else ""
    return f"{name(series.label)}: the control scores {text.score(control)}{over}. " + best(
        results, series
    )


def best(results: Results, series: Series) -> str:
    """Which policy holds at the smallest budget."""
    safe = _safe(results, series)
    if not safe:
        return f"No policy was shown to hold at any budget measured{_best_alone(results, series)}."
    least = min(ends(t)[0] or 0.0 for t in safe)
    lowest = [t["policy"] for t in safe if ends(t)[0] == least]
    cells = [c for p in lowest for c in results.of_policy(series, results.headline(series), p)]
    down = f"down to {text.budget(least)} of the full cache's bytes{_doubted(cells, least)}"
    named = text.listing(map(name, lowest))
    if len(lowest) > 1:
        return f"{named} go lowest: they hold {down}."
    return f"{named} goes lowest: it holds {down}."


def _best_alone(results: Results, series: Series) -> str:
    """The policies that hold somewhere before the correction, where none does after it."""
    key = results.headline(series)
    rows = (results.transition(series, key, p) for p in results.policies)
    alone = [name(t["policy"]) for t in rows if t is not None and ends_alone(t)[0] is not None]
    if not alone:
        return ""
    return f"; before {_correction(results)}, {text.listing(alone)} would"


def _correction(results: Results) -> str:
    """The correction for many cells, in words."""
    known = {"holm": "Holm's correction", "bh": "the Benjamini-Hochberg correction"}
    return known.get(results.gate.get("correction", "holm"), "a correction")


def _doubted(cells: Iterable[Row], budget: float | None = None) -> str:
    """What makes decided cells doubtful, of one budget if asked, in brackets; empty if nothing."""
    of = [c for c in cells if budget is None or c["budget"] == budget]
    whys = dict.fromkeys(doubt(c) for c in of if final(c) in DECIDED)
    said = [text for why, text in DOUBTS.items() if why in whys]
    return f" ({'; '.join(said)})" if said else ""


def safest(results: Results, series: Series) -> Row | None:
    """The headline transition with the smallest safe budget, the first of several."""
    return min(_safe(results, series), key=lambda t: ends(t)[0] or 0.0, default=None)


def _safe(results: Results, series: Series) -> list[Row]:
    """The headline transitions with a safe budget, policies in order."""
    key = results.headline(series)
    found = [results.transition(series, key, p) for p in results.policies]
    return [t for t in found if t is not None and ends(t)[0] is not None]


def policy(results: Results, series: Series, which: str) -> str:
    """Where one policy loses quality, with the numbers at both ends of the bracket."""
    key = results.headline(series)
    chain = results.of_policy(series, key, which)
    measured = [c for c in chain if c["verdict"] != "not-measured"]
    if not measured:
        return f"{name(which)} was not measured: {_reasons(chain)}"
    row = results.transition(series, key, which) or {}
    said = f"{_bracket(*ends(row), measured)}{_doubted(measured)}"
    parts = [f"{name(which)} {said}.", _deltas(row, measured)]
    parts += [_unadjusted(results, row, measured)]
    parts += [_open(row, measured), SHAPES.get(row.get("shape") or "", "")]
    parts += [_lengths(results, series, which)]
    return " ".join(part for part in parts if part)


def _reasons(cells: Iterable[Row]) -> str:
    reasons = dict.fromkeys(c.get("reason") or "" for c in cells)
    return " ".join(f"{r.rstrip('.')}." for r in reasons if r)


def _bracket(safe: float | None, broken: float | None, chain: Sequence[Row]) -> str:
    largest, smallest = chain[0]["budget"], chain[-1]["budget"]
    if safe is not None and broken is not None:
        return (
            f"holds down to {text.budget(safe)} and breaks from {text.budget(broken)} down: "
            f"quality is lost in ({text.budget(broken)}, {text.budget(safe)}]"
        )
    if safe is not None:
        if safe == smallest:
            return f"holds down to {text.budget(safe)}, the smallest budget measured"
        return f"holds down to {text.budget(safe)}; below, no budget is shown to hold or to break"
    if broken is None:
        return "is undecided: no budget is shown to hold or to break"
    if broken == largest:
        return (
            f"breaks from {text.budget(broken)} down, the largest budget measured: "
            "quality is lost above it"
        )
    return f"breaks from {text.budget(broken)} down; above, no budget is shown to hold or to break"


def _unadjusted(results: Results, row: Row, chain: Sequence[Row]) -> str:
    """What the ladder would say on its own, where the correction takes some of it back."""
    if ends_alone(row) == ends(row):
        return ""
    return f"On its own, before {_correction(results)}, it {_bracket(*ends_alone(row), chain)}."


def _open(row: Row, chain: Sequence[Row]) -> str:
    """What is known, and what it would take, where the bracket has an open end."""
    safe, broken = ends(row)
    if safe is not None and broken is not None:
        return ""
    said = []
    if row.get("rule_budget") not in (None, broken):
        said.append(f"By the drop rule alone it falls at {text.budget(row['rule_budget'])}.")
    wanted = [c for c in chain if c.get("needed")]
    if wanted:
        cell = min(wanted, key=lambda c: int(c["needed"]))
        said.append(
            f"About {text.count(cell['needed'], 'more example')} would decide "
            f"{text.budget(cell['budget'])}."
        )
    return " ".join(said)


def _deltas(row: Row, chain: Sequence[Row]) -> str:
    shown = [c for c in chain if c["budget"] in ends(row)] or [chain[-1]]
    said = (f"{text.difference(c)} at {text.budget(c['budget'])}" for c in shown)
    return f"Delta is {text.listing(said)}."


def _lengths(results: Results, series: Series, which: str) -> str:
    """How the safe budget moves with prompt length, where it does."""
    rows = [(b, results.transition(series, b, which)) for b in results.bins(series)]
    known = [(b, ends(t)[0]) for b, t in rows]
    safe = [(b, budget) for b, budget in known if budget is not None]
    if len(rows) < 2 or len(safe) < 2 or len({s for _, s in safe}) == 1:
        return ""
    (first, low), (last, high) = safe[0], safe[-1]
    return (
        f"By length it holds down to {text.budget(low)} in bin {first} and to "
        f"{text.budget(high)} in bin {last}."
    )


def driver(results: Results) -> str:
    """Whether accuracy, failures or labelled answers make the losses."""
    worst = min(
        (c for s in results.series for c in results.headline_cells(s) if c["delta"] is not None),
        key=lambda c: float(c["delta"]),
        default=None,
    )
    if worst is None:
        return "No cell was measured, so nothing can be said about what drives a loss."
    if worst["delta"] > -results.gate["margin"]:
        return f"No measured difference is as large as the margin. {_failures(results)}"
    where = f"{name(worst['policy'])} at {text.budget(worst['budget'])}"
    return f"{_cause(worst, where)} {_failures(results)}"


def _cause(worst: Row, where: str) -> str:
    with_all, without = worst["delta"], worst.get("delta_unlabelled")
    if without is None:
        return f"The largest loss ({where}, {text.signed(with_all)}) is one of scored answers."
    compared = f"{text.signed(with_all)} with all answers, {text.signed(without)} without them"
    if without > with_all / 2:
        return (
            "Labelled answers (empty, truncated, refused, unparsable) drive the largest loss: "
            f"{where} is {compared}."
        )
    return (
        f"Wrong answers drive the largest loss, not labelled ones (empty, truncated, refused, "
        f"unparsable): {where} is {compared}."
    )


def _failures(results: Results) -> str:
    integrity = results.part("integrity")
    failed = sum((integrity.get("failures") or {}).values())
    if not failed:
        return "No request failed."
    share = text.percent(failed / max(1, integrity.get("requests") or failed))
    kinds = text.listing(f"{n:,} {kind}" for kind, n in integrity["failures"].items() if n)
    return (
        f"{text.count(failed, 'request')} ({share}) failed: {kinds}. Failed requests have no "
        "score; their pairs are left out and counted."
    )


def sensitivity(results: Results) -> Iterator[str]:
    """Whether an arm that is known to be bad breaks; nothing where none was asked."""
    for row in results.rows("sensitivity"):
        where = name(Series(row["task"], row["variant"]).label)
        arm = f"{name(row['policy'])} at {text.budget(row['budget'])}"
        if row["policy"] == WITHHELD:
            arm = "The full cache without the context"
        said = f"{arm}, known to be bad, was asked beside the others on {where}: "
        if row["verdict"] == "breaks":
            yield f"{said}it breaks ({text.difference(row)}), so that a loss can be seen there."
        elif row["verdict"] == "not-measured":
            yield f"{said}it was not measured ({row['reason']}), so that nothing shows it."
        else:
            yield (
                f"{said}it does not break ({text.difference(row)}), so that a `holds` there means "
                "little."
            )


def certainty(results: Results) -> str:
    """Sample sizes, error rates, families and what stays open."""
    gate = results.gate
    rows = [c for s in results.series for c in results.headline_cells(s)]
    pairs, contexts = _range(c["n"] for c in rows), _range(c["clusters"] for c in rows)
    corrected = gate.get("correction", "holm") != "none"
    after = "without any correction"
    if corrected:
        after = f"after {_correction(results)} over its family"
    return (
        f"A headline row rests on {pairs} pairs of answers to the same example, from {contexts} "
        f"contexts (examples that share one are not independent). Intervals are at "
        f"{text.percent(1 - gate['alpha'])}; each direction is tested at "
        f"{gate['alpha'] / 2:g}. The verdict that counts is the one {after}: the cells "
        f"of single bins are one family ({results.planned} planned), the rows pooled over bins "
        f"another. Brackets are those of the verdicts that count; what a chain says on its own, "
        f"tested along it and not adjusted across chains, is said to be that. "
        f"Of {text.count(len(rows), 'headline row')}, {tally(rows)}."
    )


def tally(cells: Iterable[Row]) -> str:
    """`12 hold (2 unverified), 5 break, 3 undetermined and 1 not-measured`."""
    by_word: dict[str, list[Row]] = {verdict: [] for verdict in text.SYMBOLS}
    for cell in cells:
        by_word[final(cell)].append(cell)
    said = [_counted(verdict, own) for verdict, own in by_word.items() if own]
    return text.listing(said) if said else "none is judged"


def _counted(verdict: str, cells: Sequence[Row]) -> str:
    """`2 hold (1 unverified)`."""
    words = {"holds": "hold", "breaks": "break"}
    counted = f"{len(cells)} {words.get(verdict, verdict) if len(cells) != 1 else verdict}"
    whys = [doubt(c) for c in cells] if verdict in DECIDED else []
    doubts = [f"{whys.count(why)} {why}" for why in DOUBTS if why in whys]
    return f"{counted} ({', '.join(doubts)})" if doubts else counted


def _range(numbers: Iterable[int]) -> str:
    sizes = sorted({n for n in numbers if n}) or [0]
    return f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
