"""The answer in words: sentences made from a summary. Prose (see `text`), no markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.records import SCORE, WITHHELD
from pytest_kvbench.report import text
from pytest_kvbench.report.brackets import ends, together
from pytest_kvbench.report.results import DECIDED, Results, doubt, final
from pytest_kvbench.report.series import Series
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import CellRow, TransitionRow

MANY = 24
"""More curves than this and the answer names the best policy of each series only."""
DOUBTS = {
    "placebo?": "possibly a placebo: the answers equal the control's",
    "unverified": "unverified: nothing proves that the budget was applied",
    "simulated": "simulated: the policy masks what it would evict, and frees no byte",
}
SHAPES = {
    "cliff": "Its means fall as on a cliff (described, not tested).",
    "slope": "Its means fall gradually (described, not tested).",
    "non-monotone": "The curve is not monotone: look at it before trusting the bracket.",
}


def question(results: Results) -> str:
    """What was compared with what."""
    model = results.declared.get("engine.model")
    subject = f"{name(model)} with a smaller KV cache" if model else "A smaller KV cache"
    examples = sum(row["n"] for row in results.bins)
    size = f" on {hints.count(examples, 'example')}{_span(results)}" if examples else ""
    return (
        f"{subject} is compared with the same model and its full cache (the control){size}: "
        f"{hints.count(len(results.series), 'task')}, "
        f"{hints.count(len(results.policies), 'policy')}, "
        f"{hints.count(results.planned, 'cell')}. {bar(results)}"
    )


def bar(results: Results) -> str:
    """What a cell is held against."""
    if share := results.retain:
        return (
            f"A cell holds when it is shown to keep {text.percent(share)} of what the control gets "
            "right, and breaks when it is shown to keep less."
        )
    return (
        f"A cell holds when it is shown to lose less than {text.score(results.margin)} of "
        f"{results.measure}, and breaks when it is shown to lose more."
    )


def _span(results: Results) -> str:
    """How long the prompts are, where the bins say it."""
    ends = [row["high"] for row in results.bins if row["high"] is not None]
    if len(ends) < len(results.bins):
        return f" of up to {max(ends):,} tokens and longer" if ends else ""
    return f" of {min(row['low'] or 0 for row in results.bins):,} to {max(ends):,} tokens"


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
        return "No policy was shown to hold at any budget measured."
    least = min(ends(t)[0] or 0.0 for t in safe)
    lowest = [t["policy"] for t in safe if ends(t)[0] == least]
    cells = [c for p in lowest for c in results.of_policy(series, results.headline(series), p)]
    down = f"down to {text.budget(least)} of the full cache's bytes{_doubted(cells, least)}"
    named = text.listing(map(name, lowest))
    shown = text.listing(text.difference(together(c)) for c in cells if c["budget"] == least)
    verb = "go lowest: they hold" if len(lowest) > 1 else "goes lowest: it holds"
    return f"{named} {verb} {down}, with a delta of {shown}.{_chosen(results)}"


def _chosen(results: Results) -> str:
    """What is known of a row that was chosen among many."""
    rows, correction = results.rows_over_bins, results.declared.get("gate.correction") or "holm"
    error = text.percent(results.alpha / 2)
    if rows < 2:
        return ""
    if correction == "none":
        return f" It is chosen among {rows} rows without a correction: nothing bounds its error."
    bounds = {
        "holm": f"the chance that any of them is said to hold wrongly is at most {error}",
        "bh": f"of those said to hold, at most {error} are expected to be wrong",
    }
    return (
        f" That it is chosen among {rows} headline rows is allowed for: {bounds[correction]}, and "
        "the interval holds for all of them together."
    )


def _correction(results: Results) -> str:
    """The correction for many cells, in words."""
    names = {"holm": "Holm's correction", "bh": "the Benjamini-Hochberg correction"}
    return names.get(results.declared.get("gate.correction") or "holm", "a correction")


def _doubted(cells: Iterable[CellRow], budget: float | None = None) -> str:
    """What makes decided cells doubtful, of one budget if asked, in brackets; empty if nothing."""
    of = [c for c in cells if budget is None or c["budget"] == budget]
    whys = dict.fromkeys(doubt(c) for c in of if final(c) in DECIDED)
    sentences = [text for why, text in DOUBTS.items() if why in whys]
    return f" ({'; '.join(sentences)})" if sentences else ""


def safest(results: Results, series: Series) -> TransitionRow | None:
    """The headline transition with the smallest safe budget, the first of several."""
    return min(_safe(results, series), key=lambda t: ends(t)[0] or 0.0, default=None)


def _safe(results: Results, series: Series) -> list[TransitionRow]:
    """The headline transitions with a safe budget, policies in order."""
    key = results.headline(series)
    found = [results.transition(series, key, p) for p in results.policies]
    return [t for t in found if t is not None and ends(t)[0] is not None]


def policy(results: Results, series: Series, which: str) -> str:
    """Where one policy loses quality, with the numbers at both ends of the bracket."""
    key = results.headline(series)
    ladder = results.of_policy(series, key, which)
    measured = [c for c in ladder if c["verdict"] != "not-measured"]
    if not measured:
        return f"{name(which)} was not measured: {_reasons(ladder)}"
    row = results.transition(series, key, which)
    where = f"{_bracket(*ends(row), measured)}{_doubted(measured)}"
    parts = [f"{name(which)} {where}.", _deltas(row, measured)]
    parts += [_open(row, measured), SHAPES.get(row["shape"], "") if row else ""]
    parts += [_lengths(results, series, which)]
    return " ".join(part for part in parts if part)


def _reasons(cells: Iterable[CellRow]) -> str:
    reasons = dict.fromkeys(c["reason"] for c in cells)
    return " ".join(f"{r.rstrip('.')}." for r in reasons if r)


def _bracket(safe: float | None, broken: float | None, ladder: Sequence[CellRow]) -> str:
    largest, smallest = ladder[0]["budget"], ladder[-1]["budget"]
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


def _open(row: TransitionRow | None, ladder: Sequence[CellRow]) -> str:
    """What would close the bracket, where it has an open end."""
    safe, broken = ends(row)
    wanted = [(c["needed"], c["budget"]) for c in ladder if c["needed"]]
    if not wanted or (safe is not None and broken is not None):
        return ""
    needed, budget = min(wanted, key=lambda pair: pair[0])
    return f"About {hints.count(needed, 'more example')} would decide {text.budget(budget)}."


def _deltas(row: TransitionRow | None, ladder: Sequence[CellRow]) -> str:
    shown = [c for c in ladder if c["budget"] in ends(row)] or [ladder[-1]]
    deltas = (f"{text.difference(together(c))} at {text.budget(c['budget'])}" for c in shown)
    return f"Delta is {text.listing(deltas)}."


def _lengths(results: Results, series: Series, which: str) -> str:
    """How the safe budget moves with prompt length, where it does."""
    rows = [(b, ends(results.transition(series, b, which))[0]) for b in results.bins_of(series)]
    safe = [(b, budget) for b, budget in rows if budget is not None]
    if len(rows) < 2 or len(safe) < 2 or len({s for _, s in safe}) == 1:
        return ""
    (first, low), (last, high) = safe[0], safe[-1]
    return (
        f"By length it holds down to {text.budget(low)} in bin {first} and to "
        f"{text.budget(high)} in bin {last}."
    )


def driver(results: Results) -> str:
    """Whether accuracy, failures or labelled answers make the losses."""
    headline = [cell for series in results.series for cell in results.headline_cells(series)]
    deltas = [(cell["delta"], cell) for cell in headline if cell["delta"] is not None]
    if not deltas:
        return "No cell was measured, so nothing can be said about what drives a loss."
    delta, worst = min(deltas, key=lambda pair: pair[0])
    if delta > -results.margin:
        return f"No measured difference is as large as the margin. {_failures(results)}"
    where = f"{name(worst['policy'])} at {text.budget(worst['budget'])}"
    if results.measure != SCORE:
        return f"The largest loss is {where}: {text.signed(delta)}. {_failures(results)}"
    return f"{_cause(delta, worst['delta_unlabelled'], where)} {_failures(results)}"


def _cause(with_all: float, without: float | None, where: str) -> str:
    """What makes a loss, by the delta with all answers and that without labelled ones."""
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
    kinds_of_failure = results.integrity["failures"]
    failed = sum(kinds_of_failure.values())
    if not failed:
        return "No request failed."
    share = text.percent(failed / max(1, results.integrity["requests"]))
    kinds = text.listing(f"{n:,} {kind}" for kind, n in kinds_of_failure.items() if n)
    return (
        f"{hints.count(failed, 'request')} ({share}) failed: {kinds}. Failed requests have no "
        "score; their pairs are left out and counted."
    )


def sensitivity(results: Results) -> Iterator[str]:
    """Whether an arm that is known to be bad breaks; nothing where none was asked."""
    for row in results.sensitivity:
        where = name(Series.of(row).label)
        arm = f"{name(row['policy'])} at {text.budget(row['budget'])}"
        if row["policy"] == WITHHELD:
            arm = "The full cache without the context"
        asked = f"{arm}, known to be bad, was asked beside the others on {where}: "
        if row["verdict"] == "breaks":
            yield f"{asked}it breaks ({text.difference(row)}), so that a loss can be seen there."
        elif row["verdict"] == "not-measured":
            yield f"{asked}it was not measured ({row['reason']}), so that nothing shows it."
        else:
            yield (
                f"{asked}it does not break ({text.difference(row)}), so that a `holds` there means "
                "little."
            )


def certainty(results: Results) -> str:
    """Sample sizes, error rates, families and what stays open."""
    rows = [c for s in results.series for c in results.headline_cells(s)]
    pairs, contexts = _range(c["n"] for c in rows), _range(c["clusters"] for c in rows)
    corrected = results.declared.get("gate.correction") != "none"
    after, spans = "without any correction", ""
    if corrected:
        after = f"after {_correction(results)} over its family"
        spans = (
            "Intervals in these sentences hold for all headline rows together, those of tables "
            "each for its row. "
        )
    return (
        f"A headline row rests on {pairs} pairs of answers to the same example, from {contexts} "
        f"contexts (examples that share one are not independent). Intervals are at "
        f"{text.percent(1 - results.alpha)}; each direction is tested at "
        f"{results.alpha / 2:g}. The verdict that counts is the one {after}: the cells "
        f"of single bins are one family ({results.planned} planned), the rows pooled over bins "
        f"another. Brackets are those of the verdicts that count. {spans}"
        f"Of {hints.count(len(rows), 'headline row')}, {tally(rows)}."
    )


def tally(cells: Iterable[CellRow]) -> str:
    """`12 hold (2 unverified), 5 break, 3 undetermined and 1 not-measured`."""
    by_word: dict[str, list[CellRow]] = {verdict: [] for verdict in text.SYMBOLS}
    for cell in cells:
        by_word[final(cell)].append(cell)
    counts = [_counted(verdict, members) for verdict, members in by_word.items() if members]
    return text.listing(counts) if counts else "none is judged"


def _counted(verdict: str, cells: Sequence[CellRow]) -> str:
    """`2 hold (1 unverified)`."""
    words = {"holds": "hold", "breaks": "break"}
    counted = f"{len(cells)} {words.get(verdict, verdict) if len(cells) != 1 else verdict}"
    whys = [doubt(c) for c in cells] if verdict in DECIDED else []
    doubts = [f"{whys.count(why)} {why}" for why in DOUBTS if why in whys]
    return f"{counted} ({', '.join(doubts)})" if doubts else counted


def _range(numbers: Iterable[int]) -> str:
    sizes = sorted({n for n in numbers if n}) or [0]
    return f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
