"""Cards to be read: one as Markdown, several as one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.records import FULL_CACHE, SCORE, digest
from pytest_kvbench.report import answers, caveats, tables, text
from pytest_kvbench.report.blocks import (
    Block,
    Bullets,
    Code,
    Document,
    Paragraph,
    Section,
    Table,
    Value,
)
from pytest_kvbench.report.markup import to_html, to_markdown
from pytest_kvbench.report.results import Results, doubt, final, qualified
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import CellRow

if TYPE_CHECKING:
    from pytest_kvbench.ops.cards import Card

_ORDER = ("holds", "undetermined", "breaks", "not-measured")
_SORTED = (
    "A row is an arm over all bins of a task. Rows are sorted by verdict (`holds`, "
    "`undetermined`, `breaks`, `not-measured`), then by the bytes that were kept, then by n: "
    "nothing is ranked by a mean that its interval does not carry."
)
_APART = (
    "Only rows of one table were asked the same examples in the same words: others are not "
    "compared. A verdict is by the margin and level of its own row, corrected within its own card."
)


def card_markdown(card: Card) -> str:
    """A card as Markdown: the answer, every verdict, who answered, on what, and the plan."""
    results = Results(card.summary)
    sections = (
        _answer(results),
        Section("Who answered", [_arms(card), _server(card)]),
        Section("On which data", [_data(card)]),
        Section("Plan", [Code(yaml.safe_dump(dict(card.plan), sort_keys=True), "yaml")]),
        Section(
            "Asked again elsewhere",
            [Code(f"kvbench reproduce {card.name}.json", "sh"), Paragraph(_ELSEWHERE)],
        ),
    )
    title = f"{card.name}: {card.content['group']}"
    return to_markdown(Document(title, caveats.notice(results), sections))


def _answer(results: Results) -> Section:
    """The answer in sentences, and every verdict, rows over all bins first."""
    said = [answers.question(results), *(answers.lead(results, s) for s in results.series)]
    cells = [c for of in (results, *results.others) for c in of.cells if c["policy"] != FULL_CACHE]
    cells.sort(key=lambda cell: cell["bin"] != ALL_BINS)
    words = [Paragraph(line) for line in (*said, answers.certainty(results))]
    return Section("Answer", [*words, tables.verdicts(results, "Verdicts", cells)])


_ELSEWHERE = (
    "Addresses are given there, as in --set engine.base_url=http://127.0.0.1:8000/v1. It exits "
    "with 0 where all is equal or differs within noise, with 1 where it differs."
)


def _arms(card: Card) -> Table:
    rows = tuple(
        (
            Value(name(arm["policy"])),
            Value(text.budget(arm["budget"]), arm["budget"]),
            Value(arm.get("variant") or text.NOTHING),
            Value(name(arm["model"])),
            Value(name(arm["arm"][:16])),
            Value(name(arm["run"]) if "run" in arm else text.NOTHING),
        )
        for arm in card.content["identities"]["arms"]
    )
    columns = ("Policy", "Budget", "Variant", "Model", "Arm", "Run")
    return Table("", columns, rows, frozenset({1}))


def _server(card: Card) -> Bullets:
    told = card.content["identities"]["server"]
    return Bullets(tuple(f"{name(key)}: {name(value)}" for key, value in sorted(told.items())))


def _data(card: Card) -> Table:
    rows = tuple(
        (
            Value(name(task)),
            Value(data["metric"]),
            Value(text.whole(data["examples"]), data["examples"]),
            Value(name(data["template"])),
            Value(name(data["entries"][:16])),
        )
        for task, data in card.content["data"].items()
    )
    columns = ("Task", "Metric", "Examples", "Template", "Content")
    return Table("", columns, rows, frozenset({2}))


# -- several ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    card: Card
    cell: CellRow

    @property
    def place(self) -> tuple[str, str, str]:
        """Rows of one place were asked the same: task, the digest of its data, the measure."""
        data = self.card.content["data"].get(self.cell["task"])
        return self.cell["task"], digest(data), self.cell.get("measure", SCORE)

    @property
    def order(self) -> tuple[int, float, int, str]:
        """By verdict, then bytes kept, then n."""
        kept = self.cell["achieved"]
        bytes_ = self.cell["budget"] if kept is None else kept
        return _ORDER.index(final(self.cell)), bytes_, -self.cell["n"], self.card.name

    def values(self) -> tuple[Value, ...]:
        """Its cells in the page's table."""
        cell, plan = self.cell, Results(self.card.summary, self.cell.get("measure", SCORE))
        word = final(cell)
        return (
            Value(name(plan.declared.get("engine.model") or text.NOTHING)),
            Value(f"{name(cell['policy'])}{' ' if cell['variant'] else ''}{cell['variant']}"),
            Value(text.budget(cell["budget"]), cell["budget"]),
            Value(qualified(cell, word), _ORDER.index(word), tone=word),
            Value(text.achieved(cell["achieved"]), cell["achieved"]),
            Value(text.size(self._bytes), self._bytes),
            Value(text.whole(cell["n"]), cell["n"]),
            Value(text.difference(cell), cell["delta"]),
            Value(text.score(cell["control_mean"]), cell["control_mean"]),
            Value(text.score(cell["treated_mean"]), cell["treated_mean"]),
            Value(f"{plan.margin:g}, {plan.alpha:g}", plan.margin),
            Value(cell["proof"]),
            Value(name(self.card.name.removeprefix("card_")[:8])),
        )

    @property
    def _bytes(self) -> float | None:
        """Of a prompt's cache, the mean of the bins; None where nobody measured it."""
        key = CellKey.of_row(self.cell)
        kept: list[float | None] = [
            row["kept_bytes_mean"]
            for row in self.card.content["bytes"]
            if CellKey.of_row(row).pooled == key.pooled
        ]
        whole = [value for value in kept if value is not None]
        return sum(whole) / len(whole) if whole and len(whole) == len(kept) else None


_COLUMNS = (
    *("Model", "Policy", "Budget", "Verdict", "Achieved", "KV kept", "n"),
    *("Delta", "Control", "Treated", "Margin, alpha", "Proof", "Card"),
)


def leaderboard(cards: Sequence[Card]) -> str:
    """One page of several cards; a card that is given twice counts once."""
    every = list({card.name: card for card in cards}.values())
    rows = [_Row(card, cell) for card in every for cell in _headlines(card)]
    places: dict[tuple[str, str, str], list[_Row]] = {}
    for row in sorted(rows, key=lambda row: (row.place, row.order)):
        places.setdefault(row.place, []).append(row)
    first = Section("How to read it", [Bullets((_SORTED, _APART)), *_reservations(every)])
    sections = [_section(place, found) for place, found in places.items()]
    title = f"{hints.count(len(rows), 'arm')} of {hints.count(len(every), 'card')}"
    return to_html(Document(title, (), (first, *sections)), Path())


def _headlines(card: Card) -> Iterator[CellRow]:
    """The treated rows over all bins; of a task with one bin that has none, the bin's."""
    for results in (first := Results(card.summary), *first.others):
        for series in results.series:
            yield from results.headline_cells(series)


def _section(place: tuple[str, str, str], rows: Sequence[_Row]) -> Section:
    task, data, measure = place
    told: Mapping[str, Any] = rows[0].card.content["data"].get(task, {})
    where = (
        f"{name(task)}, {hints.count(told.get('examples', 0), 'example')}, content "
        f"{name(data[:12])}"
    )
    blocks: list[Block] = [
        Paragraph(where),
        Table("", _COLUMNS, tuple(row.values() for row in rows), frozenset({2, 4, 5, 6, 7, 8, 9})),
    ]
    return Section(task if measure == SCORE else f"{task}: {measure}", blocks)


def _reservations(cards: Sequence[Card]) -> list[Block]:
    """What a row does not show: partial runs, arms without a proof, cards of one arm alone."""
    lines = [
        f"{name(card.name)}: {line}"
        for card in cards
        for line in caveats.notice(Results(card.summary))
    ]
    doubtful = sum(bool(doubt(cell)) for card in cards for cell in _headlines(card))
    if doubtful:
        lines.append(f"{hints.count(doubtful, 'arm')}: nothing proves that the cache was smaller")
    return [Bullets(tuple(lines))] if lines else []
