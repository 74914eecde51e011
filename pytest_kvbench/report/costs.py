"""Memory, time and money in words. Prose (see `text`), no markup."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pytest_kvbench import hints
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import text
from pytest_kvbench.report.answers import safest
from pytest_kvbench.report.brackets import ends
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import Provenance, Throughput, Tokens


def cost(results: Results, series: Series) -> str:
    """Memory and latency at the smallest safe budget, or at the smallest one."""
    safe = safest(results, series)
    cells = results.headline_cells(series)
    if not cells:
        return ""
    smallest = min(cells, key=lambda cell: cell["budget"])
    which, budget = (
        (safe["policy"], ends(safe)[0]) if safe else (smallest["policy"], smallest["budget"])
    )
    rows = [r for r in results.stats(series, which) if r["budget"] == budget]
    kept = average(row["kept_bytes_mean"] for row in rows)
    full = average(row["full_bytes_mean"] for row in rows)
    if kept is None or full is None or not full:
        memory = "the kept bytes were not measured"
    else:
        memory = (
            f"an answer's prompt keeps {text.size(kept)} of {text.size(full)} of KV cache "
            f"({text.percent(kept / full)} measured)"
        )
    treated = average(row["latency_p50"] for row in rows)
    control = average(row["latency_p50"] for row in results.stats(series, FULL_CACHE))
    took = "what an answer takes was not measured alone"
    if treated is not None:
        took = (
            f"the median answer takes {text.seconds(treated)}, the control's "
            f"{text.seconds(control)}"
        )
    return f"{name(series.label)}, {name(which)} at {text.budget(budget)}: {memory}; {took}."


def spent(results: Results) -> str:
    """Answers, tokens and time of the whole experiment."""
    whole = results.efficiency
    if whole is None:
        return ""
    parts = [
        f"{hints.count(whole['answers'], 'answer')} took {_tokens(whole)}.",
        "Bytes are those of an answer's prompt right after compression.",
        *_reached(whole.get("throughput")),
    ]
    price = total_price(results)
    if price is not None:
        parts.append(f"At the experiment's prices they cost {money(price, results)}.")
    return " ".join([*parts, *_took(results.provenance)])


def _took(run: Provenance | None) -> list[str]:
    """How long the last run took; nothing where it did not end."""
    if run is None or not run["finished"]:
        return []
    took = datetime.fromisoformat(run["finished"]) - datetime.fromisoformat(run["started"])
    return [
        f"The last run took {text.duration(took.total_seconds())}; "
        "what was stored before it was not asked again."
    ]


def _reached(run: Throughput | None) -> list[str]:
    """Requests a minute, and what limits cost; nothing where the last run asked next to nothing."""
    if run is None:
        return []
    rate, waited, sentences = run["requests_per_minute"], run["waited_s"], []
    if rate is not None:
        ended = hints.count(run["requests"], "request")
        sentences.append(f"The last run ended {ended}, {_rate(rate)} a minute.")
    if waited:
        sentences.append(f"Its requests waited {text.seconds(waited)} in all for rate limits.")
    return sentences


def _rate(a_minute: float) -> str:
    return f"{a_minute:,.0f}" if a_minute >= 100 else f"{a_minute:.3g}"


def _tokens(data: Tokens) -> str:
    asked, made = data["prompt_tokens"], data["completion_tokens"]
    if asked is None or made is None:
        return "tokens that the server did not count for each of them"
    return f"{text.whole(asked)} prompt tokens and {text.whole(made)} new tokens"


def total_price(results: Results) -> float | None:
    """What all answers cost at `prices` of the experiment; None without them."""
    return price_of(results.efficiency, results) if results.efficiency else None


def price_of(tokens: Tokens, results: Results) -> float | None:
    """The price of some prompt and new tokens; `prices` are per million tokens of each kind."""
    prices = results.declared.get("prices")
    made, asked = tokens["completion_tokens"], tokens["prompt_tokens"]
    if not prices or made is None or asked is None:
        return None
    price = asked * (prices.get("prompt") or 0) + made * (prices.get("completion") or 0)
    return float(price) / 1e6


def money(amount: float, results: Results) -> str:
    """`0.0123 USD`: four significant digits, for a cell may cost next to nothing."""
    currency = results.declared.get("prices.currency") or ""
    return f"{amount:.4g} {currency}".rstrip()


def average(of_bins: Iterable[float | None]) -> float | None:
    """The mean over bins, each weighing the same; None where a bin has none."""
    values = list(of_bins)
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None
