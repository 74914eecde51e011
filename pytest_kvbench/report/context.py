"""The report as one frozen document: which sections there are and what stands in them.

What is said comes from `answers` and `tables`; how it looks is the templates' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import yaml

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.records import SCORE
from pytest_kvbench.report import (
    answers,
    caveats,
    certificates,
    costs,
    moved,
    published,
    ranking,
    tables,
    text,
)
from pytest_kvbench.report.blocks import (
    Block,
    Bullets,
    Code,
    Document,
    Exhibit,
    Image,
    Paragraph,
    Section,
)
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import FlipRow, NoiseFloor

MOST_FLIPS = 8
MOST_WARNINGS = 12
MOST_BRIEF = 40
"""Rows of the verdict table of the short version."""
REPLY_LENGTH = 400
"""Characters of a reply that are shown."""

TERMS = (
    "Control, treated: the model with its full KV cache, and with a policy applied. Both answer "
    "the same examples, so that every difference is one within an example.",
    "Budget: the share of the full cache's bytes that is kept. Nominal is what was asked for, "
    "achieved what the engine measured right after compression.",
    "Accuracy, score: the mean of the task's metric over answered examples, 0 to 1. A labelled "
    "answer (empty, truncated, refused, unparsable) is scored like any other.",
    "Strict: a reply that equals an accepted answer after normalisation; for multiple choice, a "
    "right choice, whether or not the task's metric asks for more.",
    "Failure rate: the share of requests without a reply (TIMEOUT, "
    "ENGINE_ERROR). They have no score; their pairs are left out and counted.",
    "Delta: treated minus control, with its interval. `holds`: the interval lies above minus the "
    "margin, so a loss that large is ruled out.",
    "`breaks`: the interval lies below minus the margin, so the loss is shown to be larger. "
    "`undetermined`: neither; `To decide` is how many more examples would settle it.",
    "`not-measured`: too many pairs were lost, the budget was provably not applied, or the full "
    "cache had nothing to lose. No verdict is given, because nothing was learnt about the policy.",
    "Adjusted: the verdict after the correction for many cells, which is the one that counts. "
    "Headline rows, pooled over bins with equal weights, are a family of their own.",
    "Transition detector: from the largest budget down while cells hold, from the smallest up "
    "while they break, by adjusted verdicts; quality is lost in what is left, written (breaks, "
    "holds]. What a ladder says on its own is a column beside it.",
    "Drop rule: the first budget whose mean lies at least the drop threshold below that of the "
    "next larger one. A column and no claim: of few examples it finds a drop where there is none.",
)


def build(results: Results, images: Sequence[Image] = ()) -> Document:
    """Everything the report says about a summary, `images` where they belong."""
    sections = (
        _answer(results),
        _certificates(results),
        published.section(results),
        _transition(results, images),
        _cells(results),
        *moved.sections(results),
        *(section for other in results.others for section in _of_measure(other, images)),
        _by_length(results, images),
        _parts(results),
        _flips(results),
        _tasks(results),
        _sanity(results),
        _integrity(results),
        _efficiency(results, images),
        _missing(results),
        Section("Limitations", [Bullets(tuple(caveats.limitations(results)))]),
        _provenance(results),
        _repeat(results),
        Section("Terms", [Bullets(TERMS)]),
    )
    kept = tuple(s for s in sections if s.blocks)
    return Document(_title(results), caveats.notice(results), kept)


def _of_measure(results: Results, images: Sequence[Image]) -> Iterator[Section]:
    """What another measure says of the same arms, each section under its name."""
    sections = (_figures(results), _certificates(results), _transition(results, images))
    for section in (*sections, _cells(results)):
        yield replace(section, title=f"{section.title}: {results.measure}")
    yield from moved.sections(results)


def _figures(results: Results) -> Section:
    """The answer without what it shares with that of another measure."""
    leads = [Paragraph(answers.lead(results, series)) for series in results.series]
    headline = [c for s in results.series for c in results.headline_cells(s)]
    return Section(
        "Answer",
        [Paragraph(answers.bar(results)), *leads, tables.verdicts(results, "Verdicts", headline)],
    )


def brief(results: Results) -> Document:
    """The answer alone, its table cut to what one looks through."""
    answer = _answer(results, MOST_BRIEF)
    return Document(_title(results), caveats.notice(results), (answer,))


def displayed(results: Results, images: Sequence[Image]) -> Document:
    """The headline verdicts of every measure, and the figures."""
    sections = (replace(_figures(of), title=of.measure) for of in (results, *results.others))
    figures = Section("Figures", list(images))
    kept = tuple(s for s in (*sections, figures) if s.blocks)
    return Document(_title(results), caveats.notice(results), kept)


def _title(results: Results) -> str:
    return f"KV budget report: {results.group or 'unnamed'}"


def _answer(results: Results, most_rows: int | None = None) -> Section:
    description = results.declared.get("description")
    blocks: list[Block] = [Paragraph(description)] if description else []
    blocks.append(Paragraph(answers.question(results)))
    brief = len(results.series) * len(results.policies) > answers.MANY
    for series in results.series:
        blocks.append(Paragraph(answers.lead(results, series)))
        if ranking.is_wanted(results):
            blocks += [Paragraph(ranking.legend(results)), ranking.table(results, series)]
        elif not brief:
            policies = (answers.policy(results, series, p) for p in results.policies)
            blocks.append(Bullets(tuple(policies)))
        if words := ranking.against_random(results, series):
            blocks.append(Paragraph(words))
    blocks += [Paragraph(answers.driver(results))]
    blocks += [Paragraph(cost) for s in results.series if (cost := costs.cost(results, s))]
    blocks += [Paragraph(answers.certainty(results)), *_warnings(results)]
    headline = [c for s in results.series for c in results.headline_cells(s)]
    shown = headline[:most_rows]
    if len(shown) < len(headline):
        blocks.append(Paragraph(f"The first {len(shown)} of {len(headline):,} headline rows:"))
    return Section("Answer", [*blocks, tables.verdicts(results, "Verdicts", shown)])


def _warnings(results: Results) -> list[Block]:
    warnings = caveats.warnings(results)
    if not warnings:
        return [Paragraph("No placebo was suspected and no cell is flagged.")]
    more = len(warnings) - MOST_WARNINGS
    shown = [*warnings[:MOST_WARNINGS], *([f"{more:,} more in `summary.json`"] if more > 0 else [])]
    return [Paragraph("Before believing a number:"), Bullets(tuple(shown))]


def _transition(results: Results, images: Sequence[Image]) -> Section:
    words = Paragraph(
        "Quality is lost between the largest budget that breaks and the smallest that holds. The "
        "heatmap shows every cell, the curves each task."
    )
    table = tables.transitions(results)
    of = "" if results.measure == SCORE else f"-{results.measure}"
    plots = _of(images, f"heatmap{of}", f"curve{of}")
    return Section("Transition", [words, *plots, table])


def _of(images: Iterable[Image], *plots: str) -> list[Image]:
    return [i for plot in plots for i in images if i.plot == plot]


def _cells(results: Results) -> Section:
    """Single bins; nothing where the headline rows are these already."""
    blocks = [
        tables.verdicts(
            results,
            series.label,
            results.ordered(c for c in results.treated(series) if c["bin"] != ALL_BINS),
        )
        for series in results.series
        if results.headline(series) == ALL_BINS and results.bins_of(series)
    ]
    return Section("Verdicts by bin", blocks)


def _by_length(results: Results, images: Sequence[Image]) -> Section:
    if not results.bin_stats:
        return Section("By prompt length", [])
    plots = _of(images, "accuracy", "depth", "failures", "latency")
    return Section("By prompt length", [*plots, tables.statistics(results)])


def _parts(results: Results) -> Section:
    """Nothing where no metric has parts."""
    made = [t for s in results.series if (t := tables.parts(results, s)).rows]
    words = Paragraph(
        "Means over bins that weigh the same. The part that falls first says what goes first: a "
        "right choice (`correct`) without evidence for it is not `credited`."
    )
    blocks: list[Block] = [words, *made] if made and results.measure == SCORE else []
    return Section("What the score is made of", blocks)


def _tasks(results: Results) -> Section:
    return Section("Tasks", [tables.tasks(results)] if results.tasks else [])


def _flips(results: Results) -> Section:
    """A few answers that changed: the policies take turns, so that each is seen."""
    rows = results.flips
    if not rows:
        return Section("Answers that changed", [])
    words = Paragraph(
        f"{hints.count(len(rows), 'changed answer')} kept in `summary.json`; some of them, the "
        "control's reply beside the treated one:"
    )
    return Section("Answers that changed", [words, *map(_exhibit, _in_turn(rows)[:MOST_FLIPS])])


def _in_turn(rows: Iterable[FlipRow]) -> list[FlipRow]:
    """One of each policy, then the second of each, and so on."""
    by_policy: dict[str, list[FlipRow]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    return [row for turn in zip_longest(*by_policy.values()) for row in turn if row is not None]


def _exhibit(row: FlipRow) -> Exhibit:
    item = caveats.item_of(
        CellKey(row["task"], row["bin"], row.get("variant", ""), row["policy"], row["budget"])
    )
    title = (
        f"{name(item)}, example {name(row['example_id'])}: the score went from "
        f"{text.score(row['control'])} to {text.score(row['treated'])}."
    )
    parts = (
        *((("Question", row["question"]),) if row["question"] else ()),
        ("Accepted", "\n".join(row["answers"])),
        ("Control", row["control_text"]),
        ("Treated", row["treated_text"]),
    )
    return Exhibit(title, tuple((label, text.clip(t or "", REPLY_LENGTH)) for label, t in parts))


def _certificates(results: Results) -> Section:
    table = certificates.table(results)
    words = Paragraph(
        "What is certified is shown: the row over all bins holds at its adjusted level, with every "
        "lost pair as a loss, no bin breaks, the treatment is proven, the control is sane and "
        "answered twice, and a loss can be seen on the task."
    )
    return Section("Certificates", [words, table] if table.rows else [])


def _sanity(results: Results) -> Section:
    floor = results.integrity["aa"]
    words = (
        f"The control run a second time differs from the first by {text.difference(floor)} "
        f"(the A/A floor: what a difference of nothing looks like).{_repeated(floor)}"
        if floor
        else "The control was not run a second time (`aa: false`), so the noise floor is not known."
    )
    table = tables.control(results)
    blocks: list[Block] = [Paragraph(words), *map(Paragraph, answers.sensitivity(results)), table]
    return Section("Sanity of the control", blocks if table.rows else [])


def _repeated(floor: NoiseFloor) -> str:
    """How often the control's second run gave the same text, and the same score."""
    return (
        f" {floor['same']:,} of {hints.count(floor['replies'], 'reply')} are the same text; "
        f"{text.percent(floor['discordance'])} of the scores differ."
    )


def _integrity(results: Results) -> Section:
    if not results.integrity["requests"]:
        return Section("Integrity", [])
    failures = tables.failures(results)
    return Section("Integrity", [tables.integrity(results), *([failures] if failures.rows else [])])


def _efficiency(results: Results, images: Sequence[Image]) -> Section:
    table = tables.efficiency(results)
    words = Paragraph(costs.spent(results))
    return Section("Efficiency", [words, *_of(images, "pareto"), table] if table.rows else [])


def _missing(results: Results) -> Section:
    rows = [*results.missing, *results.unmeasured]
    return Section("What is missing", [tables.missing(rows)] if rows else [])


def _provenance(results: Results) -> Section:
    origin = results.provenance
    return Section("Provenance", [tables.provenance(origin)] if origin else [])


def _repeat(results: Results) -> Section:
    experiment, origin = results.declared.keys, results.provenance
    blocks: list[Block] = []
    if origin and origin["command"]:
        blocks += [Paragraph("The command:"), Code(origin["command"], "sh")]
    if experiment:
        snapshot = yaml.safe_dump(dict(experiment), sort_keys=False, allow_unicode=True)
        blocks += [
            Paragraph(
                "The experiment with every default written out; saved as `FILE`, "
                "`pytest evals --kvbench-experiment FILE` runs it:"
            )
        ]
        blocks += [Code(snapshot.rstrip(), "yaml")]
    return Section("How to repeat it", blocks)
