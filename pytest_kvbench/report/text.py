"""Numbers and names as people read them.

Prose is plain text in which a pair of backticks marks a name; `markup` turns it into Markdown or
HTML, the terminal leaves the backticks out. None, a value nobody measured, is shown as a dash.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping

from pytest_kvbench import hints
from pytest_kvbench.records import format_budget
from pytest_kvbench.rows import BinRow, Difference

NOTHING = "–"
SYMBOLS: Mapping[str, str] = {
    "holds": "✓",
    "breaks": "✗",
    "undetermined": "?",
    "not-measured": "–",
}
"""Verdicts where there is no room for the word. A legend stands wherever they are used."""


def score(value: float | None) -> str:
    """A score in [0, 1]: `0.92`."""
    return NOTHING if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A difference of scores: `-0.42`, `+0.03`, `0.00`."""
    if value is None:
        return NOTHING
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def short(value: float | None) -> str:
    """A difference in four characters, for a crowded cell: `-.42`."""
    return (
        signed(value).replace("0.", ".", 1)
        if value is None or abs(value) < 0.995
        else (f"{value:+.1f}")
    )


def interval(low: float | None, high: float | None) -> str:
    """`[-0.55, -0.29]`."""
    return NOTHING if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def difference(row: Difference) -> str:
    """A delta with its interval; where it is known between bounds alone, these in its place."""
    bounds = row.get("bounds")
    delta = " to ".join(map(signed, bounds)) if isinstance(bounds, list) else signed(row["delta"])
    return f"{delta} {interval(row['ci_low'], row['ci_high'])}"


def budget(value: float | None) -> str:
    """A fraction of the full cache's bytes."""
    return NOTHING if value is None else format_budget(value)


def achieved(value: float | None) -> str:
    """A measured budget, to three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """`3.2%`, `95%`."""
    return NOTHING if value is None else f"{100 * value:.1f}%".replace(".0%", "%")


def seconds(value: float | None) -> str:
    """`310 ms`, `1.21 s`, `4 min 10 s`."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 100 else duration(value)


def duration(value: float) -> str:
    """Whole seconds: `45 s`, `4 min 10 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(value), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(value: float | None) -> str:
    """Bytes in binary units: `2.1 MiB`."""
    if value is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def whole(value: float | None) -> str:
    """A count: `12,345`."""
    return NOTHING if value is None else f"{value:,.0f}"


def listing(items: Iterable[str], limit: int = 8) -> str:
    """`a, b and c`; beyond `limit`, `a, b and 7 more`."""
    names = list(items)
    if len(names) > limit:
        names = [*names[:limit], f"{len(names) - limit:,} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def tokens(value: int) -> str:
    """A token count for a crowded axis: `614`, `1.5k`, `131k`."""
    if value < 1000:
        return str(value)
    return f"{value / 1000:.1f}k" if value < 10_000 else f"{value / 1000:.0f}k"


def edges(row: BinRow | None) -> str:
    """The edges of a bin for a crowded axis: `614–972`, `8.0k+`; nothing for an unknown bin."""
    if row is None:
        return ""
    low, high = tokens(row["low"] or 0), row["high"]
    return f"{low}+" if high is None else f"{low}–{tokens(high)}"


def name(value: object) -> str:
    """A name inside prose: set as code. A backtick in it would end the span, so it becomes `'`."""
    return f"`{printable(str(value)).replace('`', chr(39)).replace(chr(10), ' ')}`"


def plain(prose: str) -> str:
    """Prose for a terminal: one line, no backticks."""
    return " ".join(printable(prose).replace("`", "").split())


def printable(text: str) -> str:
    r"""Untrusted text without what moves a cursor or turns the reading direction: `\x1b` as typed.

    Line breaks and tabs stay.
    """
    return re.sub(r"[^\n\t -~]", _visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    character = match.group()
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return ascii(character)[1:-1]
    return character


def clip(text: str, limit: int) -> str:
    """The first `limit` characters, and how many were left out."""
    return (
        text
        if len(text) <= limit
        else f"{text[:limit]} […{hints.count(len(text) - limit, 'more character')}]"
    )


def fit(line: str, width: int) -> str:
    """The line, cut to `width` characters with an ellipsis."""
    return line if len(line) <= width else f"{line[: width - 3]}..."


def wrapped(sentence: str, width: int, lines: int = 2) -> list[str]:
    """A sentence on a narrow screen, in a few lines: what matters may stand at its end."""
    return textwrap.wrap(
        sentence,
        width,
        subsequent_indent="    ",
        max_lines=lines,
        placeholder="...",
        break_on_hyphens=False,
    )
