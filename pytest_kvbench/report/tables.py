"""The tables of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_kvbench.cellkey import ALL_BINS, Chain
from pytest_kvbench.records import FULL_CACHE, VerdictWord
from pytest_kvbench.report import text
from pytest_kvbench.report.blocks import Table, Value
from pytest_kvbench.report.brackets import bracket, ends, ends_alone
from pytest_kvbench.report.caveats import item
from pytest_kvbench.report.costs import average, money, price_of, total_price
from pytest_kvbench.report.pages.links import link_to
from pytest_kvbench.report.results import Results, qualified
from pytest_kvbench.report.series import Series
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import (
    ArmRow,
    BinStats,
    CellRow,
    MissingRow,
    Provenance,
    TaskRow,
    TransitionRow,
)
from pytest_kvbench.score.metric import backend_of

Rows = Iterable[tuple[Value, ...]]


def verdicts(results: Results, title: str, cells: Iterable[CellRow]) -> Table:
    """One row a treated cell: the verdict first, as far as a phone shows, then what it rests on."""
    level = text.percent(1 - results.alpha)
    columns = (
        f"Task|Bin|Policy|Budget|Adjusted|On its own|Delta [{level}]|n|Control|Treated|"
        "Lost, gained|To decide|Achieved|Flags"
    )
    return _table(title, columns, (_verdict_row(c) for c in cells), "3 6 7 8 9 10 11 12")


def _verdict_row(cell: CellRow) -> tuple[Value, ...]:
    return (
        _task(cell),
        _bin(cell),
        Value(name(cell["policy"])),
        Value(text.budget(cell["budget"]), cell["budget"]),
        _verdict(cell, cell["verdict_holm"]),
        _verdict(cell, cell["verdict"]),
        Value(text.difference(cell), cell["delta"]),
        _number(cell["n"]),
        _score(cell["control_mean"]),
        _score(cell["treated_mean"]),
        _changed(cell),
        Value(f"+{cell['needed']:,}" if cell["needed"] else "", cell["needed"]),
        Value(text.achieved(cell["achieved"]), cell["achieved"]),
        Value(", ".join(flag.partition(":")[0] for flag in cell["flags"])),
    )


def _changed(cell: CellRow) -> Value:
    shown = f"{text.whole(cell['losses'])}, {text.whole(cell['gains'])}"
    return Value(shown, cell["losses"], link=link_to(cell))


def transitions(results: Results) -> Table:
    """One row a ladder: bracket by corrected verdicts, alone, monotone fit, drop rule, shape."""
    columns = (
        "Task|Bin|Policy|Quality is lost|Holds down to|Breaks from|Alone, not adjusted|"
        "Monotone fit, interpolated|Drop rule|Shape"
    )
    rows = sorted(results.transitions, key=results.place)
    rows.sort(key=lambda row: row["bin"] != ALL_BINS)
    return _table("", columns, map(_transition_row, rows), "4 5 7 8")


def _transition_row(row: TransitionRow) -> tuple[Value, ...]:
    safe, broken = ends(row)
    return (
        _task(row),
        _bin(row),
        Value(name(row["policy"])),
        Value(bracket(safe, broken)),
        Value(text.budget(safe), safe),
        Value(text.budget(broken), broken),
        Value(bracket(*ends_alone(row))),
        Value(_estimate(row), row["estimate"]),
        Value(text.budget(row["rule_budget"]), row["rule_budget"]),
        Value(row["shape"] or text.NOTHING),
    )


def _estimate(row: TransitionRow) -> str:
    if row["estimate"] is None:
        return text.NOTHING
    estimate = text.score(row["estimate"]) + _between(row)
    if not row["estimate_ci"]:
        return estimate
    low, high = row["estimate_ci"]
    return f"{estimate} [{text.score(low)}, {text.score(high)}]"


def _between(row: TransitionRow) -> str:
    """The measured budgets around an estimate: it is finer than the ladder."""
    rungs = row["estimate_between"]
    return f" between {text.budget(rungs[0])} and {text.budget(rungs[1])}" if rungs else ""


def statistics(results: Results) -> Table:
    """bin_stats: one row per bin and arm, controls too."""
    columns = (
        "Task|Bin|Policy|Budget|n|Score|Interval|Strict|Failed|Labelled|Latency p50|"
        "Latency p95|Prompt tokens p50, p95|New tokens p50, p95"
    )
    policies = (FULL_CACHE, *results.policies)
    stats = [r for s in results.series for p in policies for r in results.stats(s, p)]
    rows = map(_statistics_row, stats)
    return _table("", columns, rows, "3 4 5 6 7 8 9 10 11 12 13")


def _statistics_row(row: BinStats) -> tuple[Value, ...]:
    deviation = f" ± {text.score(row['acc_std'])}" if row["acc_std"] is not None else ""
    return (
        _task(row),
        _bin(row),
        Value(name(row["policy"])),
        Value(text.budget(row["budget"]), row["budget"]),
        _number(row["n"]),
        Value(text.score(row["acc_mean"]) + deviation, row["acc_mean"]),
        Value(_interval(row), row["ci_low"]),
        _score(row["em_mean"]),
        _percent(row["fail_rate"]),
        _percent(row["label_rate"]),
        _seconds(row["latency_p50"]),
        _seconds(row["latency_p95"]),
        _quantiles(row["prompt_tokens_p50"], row["prompt_tokens_p95"]),
        _quantiles(row["completion_tokens_p50"], row["completion_tokens_p95"]),
    )


def tasks(results: Results) -> Table:
    """What was asked: metric, whose wording, how long an answer may be, tokenizer."""
    columns = "Task|Metric|Prompts|Template|New tokens at most|Tokenizer|Examples"
    return _table("", columns, map(_task_row, results.tasks), "4 6")


def _task_row(row: TaskRow) -> tuple[Value, ...]:
    return (
        Value(name(row["task"])),
        Value(_metric(row["metric"])),
        Value(row["prompts"] or text.NOTHING),
        Value(name(row["template"])),
        _lengths(row.get("max_tokens") or ()),
        Value(name(row["tokenizer"])),
        _number(row["n"]),
    )


def _metric(metric: str) -> str:
    """Its name, and whose arithmetic it is where two are in use under one name."""
    backend = backend_of(metric)
    return f"{name(metric)} ({backend})" if backend else name(metric)


def _lengths(counts: Sequence[int]) -> Value:
    low, high = min(counts, default=None), max(counts, default=None)
    return Value(
        text.whole(high) if low == high else f"{text.whole(low)} to {text.whole(high)}", high
    )


def parts(results: Results, series: Series) -> Table:
    """What a score is made of: one row an arm, means over bins that weigh the same."""
    arms: dict[tuple[str, float], list[BinStats]] = {}
    for policy in (FULL_CACHE, *results.policies):
        for row in results.stats(series, policy):
            if row["parts_mean"]:
                arms.setdefault((policy, row["budget"]), []).append(row)
    names = dict.fromkeys(p for rows in arms.values() for r in rows for p in r["parts_mean"])
    columns = "|".join(["Policy", "Budget", "Score", *(p.replace("_", " ") for p in names)])
    numeric = " ".join(str(place) for place in range(1, 3 + len(names)))
    rows = (
        (
            Value(name(policy)),
            Value(text.budget(budget), budget),
            _score(average(r["acc_mean"] for r in of_arm)),
            *(_score(average(r["parts_mean"].get(part) for r in of_arm)) for part in names),
        )
        for (policy, budget), of_arm in arms.items()
    )
    return _table(series.label, columns, rows, numeric)


def control(results: Results) -> Table:
    """The control's own sanity, bin by bin."""
    rows = (r for s in results.series for r in results.stats(s, FULL_CACHE))
    columns = "Task|Bin|Tokens|n|Score|Interval|Failed|Labelled"
    return _table("", columns, (_control_row(results, r) for r in rows), "3 4 5 6 7")


def _control_row(results: Results, row: BinStats) -> tuple[Value, ...]:
    return (
        _task(row),
        _bin(row),
        _span(results, row),
        _number(row["n"]),
        _score(row["acc_mean"]),
        Value(_interval(row)),
        _percent(row["fail_rate"]),
        _percent(row["label_rate"]),
    )


def _span(results: Results, row: BinStats) -> Value:
    """How long the prompts of a bin are."""
    bin_ = results.bin_row(Series.of(row), int(row["bin"]))
    if bin_ is None:
        return Value(text.NOTHING)
    low, high = bin_["low"], bin_["high"]
    return Value(f"{low or 0:,}+" if high is None else f"{low or 0:,} to {high:,}", low)


def efficiency(results: Results) -> Table:
    """Tokens, bytes and times of each arm over all tasks."""
    columns = (
        "Policy|Budget|Achieved|KV kept|KV full|Latency p50|Latency p95|First token p50|Answers|"
        "Prompt tokens|New tokens|New tokens/s"
    )
    priced = total_price(results) is not None
    rows = (_efficiency_row(arm) + (_price(arm, results) if priced else ()) for arm in results.arms)
    return _table("", columns + "|Price" * priced, rows, "1 2 3 4 5 6 7 8 9 10 11 12")


def _price(arm: ArmRow, results: Results) -> tuple[Value]:
    price = price_of(arm, results)
    return (Value(text.NOTHING if price is None else money(price, results), price),)


def _throughput(arm: ArmRow) -> Value:
    """New tokens per second of the median request, the reading of the prompt included."""
    made, took = arm["completion_tokens"], arm["latency_p50"]
    if not made or not took or not arm["answers"]:
        return Value(text.NOTHING)
    rate = made / arm["answers"] / took
    return Value(f"{rate:.1f}", rate)


def _efficiency_row(arm: ArmRow) -> tuple[Value, ...]:
    return (
        Value(name(Series(arm["policy"], arm["variant"]).label)),
        Value(text.budget(arm["budget"]), arm["budget"]),
        Value(text.achieved(arm["achieved_mean"]), arm["achieved_mean"]),
        Value(text.size(arm["kept_bytes_mean"]), arm["kept_bytes_mean"]),
        Value(text.size(arm["full_bytes_mean"]), arm["full_bytes_mean"]),
        _seconds(arm["latency_p50"]),
        _seconds(arm["latency_p95"]),
        _seconds(arm["ttft_p50"]),
        _number(arm["answers"]),
        _number(arm["prompt_tokens"]),
        _number(arm["completion_tokens"]),
        _throughput(arm),
    )


def integrity(results: Results) -> Table:
    """How many requests ended how."""
    counts = results.integrity
    requests, answers = counts["requests"], counts["answers"]
    rows = [
        _share("requests", requests, requests),
        _share("answers", answers, requests),
        *(_share(kind, n, requests) for kind, n in counts["failures"].items()),
        *(_share(f"{label} (scored)", n, answers) for label, n in counts["labels"].items()),
    ]
    return _table("", "What|Number|Share", rows, "1 2")


def failures(results: Results) -> Table:
    """Why requests failed, in the words of who failed them."""
    rows = results.integrity.get("messages", ())
    shown = ((Value(r["kind"]), Value(r["message"]), _number(r["n"])) for r in rows)
    return _table("", "Failure|Message|Requests", shown, "2")


def _share(what: str, number: int, whole: int) -> tuple[Value, ...]:
    return Value(what), _number(number), _percent(number / whole if whole else None)


def missing(rows: Iterable[MissingRow | CellRow]) -> Table:
    """Cells without an answer, and why."""
    return _table("", "Cell|Reason", ((Value(name(item(r))), Value(r["reason"])) for r in rows))


def provenance(origin: Provenance) -> Table:
    """Names and values; mappings inside are written out as `key: value`, controls are counted."""
    shown: dict[str, object] = dict(origin)
    if controls := origin.get("controls"):
        produced = sum(use["produced"] for use in controls)
        reused = sum(use["reused"] for use in controls)
        shown["controls"] = f"{produced:,} answers asked for, {reused:,} taken from shared controls"
    return _table("", "What|Value", ((Value(k), Value(_fact(v))) for k, v in shown.items()))


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_fact(v)}" for k, v in value.items()) or text.NOTHING
    return text.NOTHING if value in (None, "") else name(value)


def _table(title: str, columns: str, rows: Rows, numeric: str = "") -> Table:
    """A table whose column names are joined by `|`; `numeric` lists the places of some."""
    places = frozenset(map(int, numeric.split()))
    return Table(title, tuple(columns.split("|")), tuple(rows), places)


def _task(row: Chain) -> Value:
    return Value(name(Series.of(row).label))


def _bin(row: Chain) -> Value:
    return Value(ALL_BINS, -1) if row["bin"] == ALL_BINS else Value(str(row["bin"]), row["bin"])


def _interval(row: BinStats) -> str:
    return f"[{text.score(row['ci_low'])}, {text.score(row['ci_high'])}]"


def _quantiles(p50: float | None, p95: float | None) -> Value:
    return Value(f"{text.whole(p50)}, {text.whole(p95)}", p50)


def _percent(value: float | None) -> Value:
    return Value(text.percent(value), value)


def _seconds(value: float | None) -> Value:
    return Value(text.seconds(value), value)


def _number(value: float | None) -> Value:
    return Value(text.whole(value), value)


def _score(value: float | None) -> Value:
    return Value(text.score(value), value)


def _verdict(cell: CellRow, verdict: VerdictWord | None) -> Value:
    word = verdict or ""
    return Value(qualified(cell, word) or text.NOTHING, tone=word)
