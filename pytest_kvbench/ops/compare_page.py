"""A comparison as a page, for a CI job's summary, and in one line each for JUnit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.ops.listing import comparison_lines
from pytest_kvbench.pipeline.baseline import Side
from pytest_kvbench.pipeline.browse import prompts_of
from pytest_kvbench.pipeline.compare import Change, Comparison
from pytest_kvbench.pipeline.group import Prepared, open_group
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.records import Prompt
from pytest_kvbench.report import text
from pytest_kvbench.report.blocks import Block, Bullets, Document, Paragraph, Section, Table, Value
from pytest_kvbench.report.caveats import item_of
from pytest_kvbench.report.markup import to_html, to_markdown
from pytest_kvbench.report.pages.group import Collected
from pytest_kvbench.report.pages.links import link_to
from pytest_kvbench.report.pages.packed import AnswersPage
from pytest_kvbench.report.pages.records import Answers, Arm, Pair, PromptOf
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import Difference
from pytest_kvbench.selection import ManifestEntry
from pytest_kvbench.store.places import is_group

MOST_BRIEF = 40
"""Rows of the table in a job's summary."""

_Place = tuple[CellKey, str]
"""A cell by the base's name of the policy, and an example."""


@dataclass(frozen=True)
class Compared:
    """One side: its name, what was compared, and its group where it is one and is here."""

    name: str
    side: Side
    prepared: Prepared | None = None

    @classmethod
    def of(cls, name: str, side: Side, reports: Path) -> Compared:
        """A side with its group: of a baseline there are scores alone."""
        folder = reports / name
        return cls(name, side, open_group(folder) if is_group(folder) else None)


def comparison_html(result: Comparison, base: Compared, now: Compared) -> str:
    """The page of a comparison: cells side by side, and every pair of answers.

    Raises:
        MissingPrerequisiteError: an answer of a group has no score.
    """
    rest = f"kvbench view {now.name}, kvbench view {base.name}"
    page = AnswersPage(answers_between(result, base, now), rest)
    return to_html(document(result), Path(), page)


def comparison_markdown(result: Comparison) -> str:
    """The comparison for a CI job's summary: what changed first, and no more than one reads."""
    return to_markdown(document(result, MOST_BRIEF))


def comparison_facts(result: Comparison) -> Iterator[tuple[str, str]]:
    """Names and values for JUnit: the outcome, and every row that is a regression."""
    *_, outcome = comparison_lines(result, 10_000)
    yield "comparison", f"{result.now} against {result.base}: {outcome}"
    for change in result.regressions:
        yield "regression", f"{item_of(change.key)}: {text.difference(_difference(change))}"


# -- what is said ----------------------------------------------------------------------------------


def document(result: Comparison, most: int | None = None) -> Document:
    """A comparison as a document, its table cut to some rows."""
    first, *_, outcome = comparison_lines(result, 10_000)
    rows = sorted(result.changes, key=_interest)
    shown = rows[:most]
    blocks: list[Block] = [Paragraph(f"{first}. {outcome}.")]
    if len(shown) < len(rows):
        blocks.append(Paragraph(f"The first {len(shown)} of {len(rows):,} rows:"))
    blocks.append(_table(result, shown))
    sections = (
        Section("Comparison", blocks),
        Section("What was declared otherwise", _listed(_declared(result))),
        Section("What is in one alone, or was not compared", _listed(_left_out(result))),
    )
    title = f"{result.now} against {result.base}"
    return Document(title, (), tuple(s for s in sections if s.blocks))


def _interest(change: Change) -> tuple[bool, bool, bool]:
    """Regressions first, then what changed, then rows over all bins."""
    moved = change.change or change.new_break or change.fixed_break
    return not change.regression, not moved, change.bin != ALL_BINS


def _listed(lines: Iterator[str]) -> list[Block]:
    every = tuple(lines)
    return [Bullets(every)] if every else []


def _declared(result: Comparison) -> Iterator[str]:
    for former, later in result.renamed.items():
        yield f"{name(former)} is compared with {name(later)}"
    yield from (f"{name(key)}: {old} -> {new}" for key, (old, new) in result.differs.items())


def _left_out(result: Comparison) -> Iterator[str]:
    for side, keys in ((result.base, result.only_base), (result.now, result.only_now)):
        yield from (f"only in {side}: {name(item_of(key))}" for key in keys)
    for key, reason in result.uncompared.items():
        yield f"{name(item_of(key))}: {reason}"


def _table(result: Comparison, rows: Sequence[Change]) -> Table:
    columns = (
        "Task",
        "Bin",
        "Policy",
        "Budget",
        "Change",
        f"Verdict in {result.base}",
        f"Verdict in {result.now}",
        f"Score in {result.base}",
        f"Score in {result.now}",
        f"Delta [{text.percent(1 - result.alpha)}]",
        "n",
        "How",
    )
    return Table("Cells", columns, tuple(map(_row, rows)), frozenset({3, 7, 8, 9, 10}))


def _row(change: Change) -> tuple[Value, ...]:
    task = f"{change.task} [{change.variant}]" if change.variant else change.task
    renamed = f"{name(change.policy)} -> {name(change.policy_now)}"
    tone = {"worse": "breaks", "better": "holds"}.get(change.change, "")
    now = change.key._replace(policy=change.policy_now)
    return (
        Value(name(task)),
        Value(str(change.bin), -1 if change.bin == ALL_BINS else change.bin),
        Value(name(change.policy) if change.policy == change.policy_now else renamed),
        Value(text.budget(change.budget), change.budget),
        Value(change.change or "same", tone=tone),
        Value(change.verdict_base or "", tone=change.verdict_base or ""),
        Value(change.verdict_now or "", tone=change.verdict_now or ""),
        Value(text.score(change.base), change.base),
        Value(text.score(change.now), change.now),
        Value(
            text.difference(_difference(change)), change.estimate.delta, link=link_to(now.columns())
        ),
        Value(text.whole(change.n_now), change.n_now),
        Value("paired" if change.paired else "two samples"),
    )


def _difference(change: Change) -> Difference:
    found = change.estimate
    return {"delta": found.delta, "ci_low": found.ci_low, "ci_high": found.ci_high}


# -- answers ---------------------------------------------------------------------------------------


def answers_between(result: Comparison, base: Compared, now: Compared) -> Answers:
    """Every answer that both sides have, beside each other; of a baseline its scores."""
    groups = [side.prepared for side in (now, base) if side.prepared]
    manifests = {t: m for group in reversed(groups) for t, m in group.manifests.items()}
    found = Collected(manifests)
    back = {later: former for former, later in result.renamed.items()}
    lefts, rights = dict(_placed(found, base, {})), list(_placed(found, now, back))
    pairs: list[Pair] = [(lefts[place], at) for place, at in rights if place in lefts]
    verdicts = {cell.key: cell.verdict or "" for cell in now.side.cells}
    sides = (base.name, now.name)
    return Answers(
        sides, found.examples, found.arms, found.answers, pairs, verdicts, _prompts(groups)
    )


def _prompts(groups: Sequence[Prepared]) -> PromptOf:
    makers = [prompts_of(group) for group in groups]

    def prompt(entry: ManifestEntry, variant: str, policy: str) -> Prompt | None:
        made = (maker(entry, variant, policy) for maker in makers)
        return next((sent for sent in made if sent is not None), None)

    return prompt


def _placed(
    found: Collected, of: Compared, back: Mapping[str, str]
) -> Iterator[tuple[tuple[_Place, int], int]]:
    """Each answer with its place, counted where a cell asks an example several times."""
    met: dict[_Place, int] = {}
    for key, example, at in _answers(found, of):
        place = (key._replace(policy=back.get(key.policy, key.policy)), example)
        met[place] = met.get(place, -1) + 1
        yield (place, met[place]), at


def _answers(found: Collected, of: Compared) -> Iterator[tuple[CellKey, str, int]]:
    if of.prepared is None:
        for cell in of.side.cells:
            key = cell.key
            arm = Arm(key.policy, key.budget, key.variant, of.name)
            for example, score in cell.scores.items():
                yield key, example, found.add_score(key.task, example, int(key.bin), arm, score)
        return
    for one in observed(of.prepared).judged:
        if not one.aa:
            yield CellKey.of(one.cell), one.example_id, found.add(one, of.name)
