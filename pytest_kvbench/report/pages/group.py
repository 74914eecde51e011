"""The answers of one group: every treatment beside its control."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.observation import Observation
from pytest_kvbench.records import Example
from pytest_kvbench.report.pages.records import Answer, Answers, Arm, Pair, PromptOf
from pytest_kvbench.rows import CellRow
from pytest_kvbench.selection import ManifestEntry, TaskManifest

SIDES = ("control", "treated")


class Collected:
    """Examples, arms and answers as they are met, each once."""

    def __init__(self, manifests: Mapping[str, TaskManifest]) -> None:
        self._entries = {
            (m.task, entry.example.example_id): entry
            for m in manifests.values()
            for entry in m.entries
        }
        self._examples: dict[tuple[str, str], int] = {}
        self._arms: dict[Arm, int] = {}
        self.answers: list[Answer] = []

    @property
    def examples(self) -> list[tuple[str, ManifestEntry]]:
        """Task and entry of those that were met; of one that no manifest has, its name."""
        return [(task, self._entries[task, name]) for task, name in self._examples]

    def add_score(self, task: str, name: str, bin_: int, arm: Arm, score: float) -> int:
        """Take a score of which nothing else was kept; the place of its answer."""
        unknown = ManifestEntry(Example(name, "", "", ()), bin_, 0, "", 0)
        self._entries.setdefault((task, name), unknown)
        self.answers.append(Answer(self.example(task, name), self.arm(arm), 0, score))
        return len(self.answers) - 1

    @property
    def arms(self) -> list[Arm]:
        """Those that were met."""
        return list(self._arms)

    def example(self, task: str, name: str) -> int:
        """The place of an example."""
        return self._examples.setdefault((task, name), len(self._examples))

    def arm(self, arm: Arm) -> int:
        """The place of an arm."""
        return self._arms.setdefault(arm, len(self._arms))

    def add(self, one: Observation, side: str = "") -> int:
        """Take an observation; the place of its answer."""
        cell = one.cell
        self.answers.append(
            Answer(
                self.example(cell.task, one.example_id),
                self.arm(Arm(cell.policy, cell.budget, cell.variant, side, one.aa)),
                one.replicate,
                one.outcome.score,
                one.outcome,
                len(one.keys),
            )
        )
        return len(self.answers) - 1


def of_group(
    manifests: Mapping[str, TaskManifest],
    judged: Collection[Observation],
    cells: Iterable[CellRow],
    prompt_of: PromptOf,
) -> Answers:
    """Every treated answer, and the control's second one, beside the control's.

    Args:
        manifests: the selection by task.
        judged: the observations that were judged.
        cells: what was made of them, as in the summary.
        prompt_of: what was sent.
    """
    found = Collected(manifests)
    places = [found.add(one) for one in judged]
    lefts = {one.shared: p for p, one in zip(places, judged, strict=True) if _is_left(one)}
    rights = ((p, one) for p, one in zip(places, judged, strict=True) if not _is_left(one))
    pairs: list[Pair] = [(lefts.get(one.shared), place) for place, one in rights]
    verdicts = {CellKey.of_row(row): row["verdict_holm"] or "" for row in cells}
    return Answers(SIDES, found.examples, found.arms, found.answers, pairs, verdicts, prompt_of)


def _is_left(one: Observation) -> bool:
    return one.cell.is_control and not one.aa
