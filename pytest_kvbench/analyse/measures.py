"""The analyses of several measures as one: each was judged as a family of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from pytest_kvbench.analyse.integrity import flag_note, where
from pytest_kvbench.analyse.rules import Analysis
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.divergence.records import HIGH
from pytest_kvbench.records import FULL_CACHE, SCORE, VerdictWord
from pytest_kvbench.rows import ArmRow, BinStats, CellRow, Efficiency, Integrity

SMALL = 0.2
"""The share of a margin that the full cache may differ from itself by without a word."""


def together(analyses: Mapping[str, Analysis], margins: Mapping[str, float]) -> Analysis:
    """One analysis with the rows of all, by measure; it says where they disagree.

    Args:
        analyses: by measure, scores first.
        margins: that each was judged by.
    """
    if list(analyses) == [SCORE]:
        return analyses[SCORE]
    every = analyses.values()
    cells = [*chain.from_iterable(one.cells for one in every)]
    stats = [*chain.from_iterable(one.bin_stats for one in every)]
    notes = [*noisy_floors(stats, margins), *disagreements(cells)]
    return Analysis(
        cells=cells,
        transitions=[*chain.from_iterable(one.transitions for one in every)],
        bin_stats=stats,
        integrity=_integrity(analyses, notes),
        efficiency=_efficiency(analyses),
        sensitivity=[*chain.from_iterable(one.sensitivity for one in every)],
    )


def noisy_floors(stats: Iterable[BinStats], margins: Mapping[str, float]) -> list[str]:
    """One sentence where full caches differ from themselves by a good part of the margin.

    By the most that they can agree, where that lies between bounds.
    """
    found = list(_noisy_floors(stats, margins))
    return [f"noise-floor: {flag_note(found)}"] if found else []


def _noisy_floors(
    stats: Iterable[BinStats], margins: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
    for row in stats:
        measure, mean = row.get("measure", SCORE), row["acc_mean"]
        if measure == SCORE or row["policy"] != FULL_CACHE or mean is None:
            continue
        high = row["parts_mean"].get(f"{measure}{HIGH}")
        most = f"{'at most ' if high else ''}{high or mean:.3f}"
        if 1 - (high or mean) > SMALL * margins[measure]:
            yield (
                f"{row['task']} bin {row['bin']}",
                f"asked again, the full cache agrees with itself to {most} ({measure}) and not to "
                "1: what moves less is hidden. A server that decodes several requests together "
                "does this; one slot (engine.concurrency: 1, launch.parallel: 1) takes it away",
            )


def disagreements(cells: Sequence[CellRow]) -> list[str]:
    """A sentence for each way in which replies say another thing than distributions."""
    found: dict[str, list[tuple[str, str]]] = {}
    words = {CellKey.of_row(row): (row["verdict_holm"] or row["verdict"], row) for row in cells}
    for key, (word, row) in words.items():
        scored, _ = words.get(key._replace(measure=SCORE), (None, None))
        if key.measure != SCORE and (meaning := _MEANING.get((scored, word))):
            found.setdefault(meaning, []).append((where(row), meaning))
    return [f"measures: {flag_note(named)}" for named in found.values()]


_MEANING: Mapping[tuple[VerdictWord | None, VerdictWord | None], str] = {
    ("holds", "breaks"): (
        "the graded answers hold while the distributions moved: the answers are short or easy, and "
        "other text of the same model may change"
    ),
    ("breaks", "holds"): (
        "the graded answers break while the distributions hold: a few tokens decide them, such as "
        "those of a needle, which a mean over a reply does not show"
    ),
}
"""What it usually means that scores say the one and distributions the other."""


def _integrity(analyses: Mapping[str, Analysis], notes: Iterable[str]) -> Integrity:
    """All counts. The A/A floor is that of scores: of distributions it is the control itself."""
    parts = [one.integrity for one in analyses.values()]
    return {
        "requests": sum(one["requests"] for one in parts),
        "answers": sum(one["answers"] for one in parts),
        "failures": _counts(one["failures"] for one in parts),
        "labels": _counts(one["labels"] for one in parts),
        "placebos": [*chain.from_iterable(one["placebos"] for one in parts)],
        "notes": [*chain.from_iterable(one["notes"] for one in parts), *notes],
        "aa": analyses[SCORE].integrity["aa"] if SCORE in analyses else None,
    }


def _counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum((Counter(part) for part in parts), Counter[str]()).most_common())


def _efficiency(analyses: Mapping[str, Analysis]) -> Efficiency:
    parts = [one.efficiency for one in analyses.values()]
    return {
        "answers": sum(one["answers"] for one in parts),
        "prompt_tokens": _sum([one["prompt_tokens"] for one in parts]),
        "completion_tokens": _sum([one["completion_tokens"] for one in parts]),
        "arms": [
            _named(arm, measure)
            for measure, one in analyses.items()
            for arm in one.efficiency["arms"]
        ],
    }


def _named(arm: ArmRow, measure: str) -> ArmRow:
    return arm if measure == SCORE else {**arm, "measure": measure}


def _sum(counts: Sequence[int | None]) -> int | None:
    """None where one is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
