"""Memory, time and money in words. Prose (see `text`), no markup."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import text
from pytest_kvbench.report.answers import safest
from pytest_kvbench.report.results import Results, Row, Series, ends
from pytest_kvbench.report.text import name


def cost(results: Results, series: Series) -> str:
    """Memory and latency at the smallest safe budget, or at the smallest one."""
    safe = safest(results, series)
    cells = results.headline_cells(series)
    if not cells:
        return ""
    smallest = min(cells, key=lambda c: float(c["budget"]))
    which, budget = (
        (safe["policy"], ends(safe)[0]) if safe else (smallest["policy"], smallest["budget"])
    )
    rows = [r for r in results.stats(series, which) if r["budget"] == budget]
    kept, full = average(rows, "kept_bytes_mean"), average(rows, "full_bytes_mean")
    if kept is None or full is None or not full:
        memory = "the kept bytes were not measured"
    else:
        memory = (
            f"an answer's prompt keeps {text.size(kept)} of {text.size(full)} of KV cache "
            f"({text.percent(kept / full)} measured)"
        )
    own, control = (average(r, "latency_p50") for r in (rows, results.stats(series, FULL_CACHE)))
    took = "what an answer takes was not measured alone"
    if own is not None:
        took = f"the median answer takes {text.seconds(own)}, the control's {text.seconds(control)}"
    return f"{name(series.label)}, {name(which)} at {text.budget(budget)}: {memory}; {took}."


def spent(results: Results) -> str:
    """Answers, tokens and time of the whole experiment."""
    data, run = results.part("efficiency"), results.part("provenance")
    said = (
        f"{text.whole(data.get('answers'))} answers took {_tokens(data)}. "
        "Bytes are those of an answer's prompt right after compression."
    )
    said += _reached(data.get("throughput") or {})
    price = total_price(results)
    if price is not None:
        said += f" At the experiment's prices they cost {money(price, results)}."
    if not run.get("started") or not run.get("finished"):
        return said
    began, ended = (datetime.fromisoformat(run[end]) for end in ("started", "finished"))
    took = text.duration((ended - began).total_seconds())
    return f"{said} The last run took {took}; what was stored before it was not asked again."


def _reached(run: Row) -> str:
    """Requests a minute, and what limits cost; empty where the last run asked next to nothing."""
    rate, waited = run.get("requests_per_minute"), run.get("waited_s")
    said = ""
    if rate is not None:
        asked = text.count(run["requests"], "request")
        said = f" The last run ended {asked}, {rate:,.4g} a minute."
    if waited:
        said += f" Its requests waited {text.seconds(waited)} in all for rate limits."
    return said


def _tokens(data: Row) -> str:
    asked, made = data.get("prompt_tokens"), data.get("completion_tokens")
    if asked is None or made is None:
        return "tokens that the server did not count for each of them"
    return f"{text.whole(asked)} prompt tokens and {text.whole(made)} new tokens"


def total_price(results: Results) -> float | None:
    """What all answers cost at `prices` of the experiment; None without them."""
    return price_of(results.part("efficiency"), results)


def price_of(tokens: Row, results: Results) -> float | None:
    """The price of some prompt and new tokens; `prices` are per million tokens of each kind."""
    prices = results.part("experiment").get("prices") or {}
    made, asked = tokens.get("completion_tokens"), tokens.get("prompt_tokens")
    if not prices or made is None or asked is None:
        return None
    price = asked * (prices.get("prompt") or 0) + made * (prices.get("completion") or 0)
    return float(price) / 1e6


def money(amount: float, results: Results) -> str:
    """`0.0123 USD`: four significant digits, for a cell may cost next to nothing."""
    currency = (results.part("experiment").get("prices") or {}).get("currency") or ""
    return f"{amount:.4g} {currency}".rstrip()


def average(rows: Sequence[Row], key: str) -> float | None:
    """The mean over bins, each weighing the same; None where a bin has none."""
    values = [r.get(key) for r in rows]
    known = [float(v) for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
