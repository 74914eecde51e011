"""A card that is asked again elsewhere, and how far the answers agree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.errors import EXIT_FOUND, GuardError, InfrastructureError
from pytest_kvbench.experiment.limits import MAX_GROUP
from pytest_kvbench.experiment.load import Declared, Override
from pytest_kvbench.experiment.snapshot import Snapshot
from pytest_kvbench.ops.cards import Card, plan_of
from pytest_kvbench.ops.listing import comparison_lines
from pytest_kvbench.pipeline.compare import Change, Comparison, compare
from pytest_kvbench.pipeline.declared import load_stages
from pytest_kvbench.pipeline.ending import Reason, of_comparison
from pytest_kvbench.report import text
from pytest_kvbench.report.caveats import item_of

Outcome = Literal["equal", "differs within noise", "differs"]
_OF_A_MACHINE = re.compile(r"[:/\\]|\.py$")
"""In a name: a class of a module or file, or data in a file."""
_NAME = MAX_GROUP - 9
_SECTIONS = ("kv", "gate", "sensitivity", "task_options")


@dataclass(frozen=True)
class Reproduced:
    """A card beside what came of asking it again; `same`: cells whose replies are word for word."""

    card: Card
    again: Card
    found: Comparison
    same: frozenset[str]

    @property
    def differing(self) -> list[Change]:
        """Rows whose scores are shown to differ, either way, or that held and break now."""
        return [row for row in self.found.changes if row.change or row.regression]

    @property
    def outcome(self) -> Outcome:
        """Of all that was compared."""
        if self.differing:
            return "differs"
        return "equal" if set(self._cells) <= self.same else "differs within noise"

    @property
    def _cells(self) -> list[str]:
        """The names of the cells that were compared."""
        return [item_of(row.key) for row in self.found.changes if row.bin != ALL_BINS]

    def lines(self) -> Iterator[str]:
        """For a terminal, the outcome last."""
        yield from comparison_lines(self.found)
        for task in self.other_data:
            yield f"{task}: its examples or prompts are not those of the card"
        for key, (was, is_) in self._identities():
            yield f"answered by another {key}: {was} in the card, {is_} now"
        equal = sum(cell in self.same for cell in self._cells)
        yield (
            f"{self.card.name}: {self.outcome}: of {hints.count(len(self._cells), 'cell')} {equal} "
            f"word for word the same, {hints.count(len(self.differing), 'row')} shown to differ"
        )

    @property
    def other_data(self) -> list[str]:
        """The tasks that were not asked the same examples in the same words."""
        was, is_ = self.card.content["data"], self.again.content["data"]
        return [task for task in was if was[task] != is_.get(task)]

    def _identities(self) -> Iterator[tuple[str, tuple[str, str]]]:
        was, is_ = (card.content["identities"]["server"] for card in (self.card, self.again))
        for key in sorted(was.keys() | is_.keys()):
            if was.get(key) != is_.get(key):
                yield key, (str(was.get(key, text.NOTHING)), str(is_.get(key, text.NOTHING)))

    def reasons(self) -> Iterator[Reason]:
        """Why the command does not end with 0."""
        if self.differing:
            rows = text.listing((item_of(row.key) for row in self.differing), limit=3)
            yield Reason(EXIT_FOUND, f"{self.card.name}: differs: {rows}")
        not_ours = (reason for reason in of_comparison(self.found) if reason.status != EXIT_FOUND)
        yield from not_ours
        if self.other_data:
            line = f"{self.card.name}: other data: {text.listing(self.other_data, limit=3)}"
            yield Reason(InfrastructureError.exit_status, line)
        lacking = [*self.found.only_base, *self.found.only_now]
        if lacking:
            line = f"{self.card.name}: {hints.count(len(lacking), 'cell')} on one side alone"
            yield Reason(InfrastructureError.exit_status, line)


def declared_again(
    card: Card, file: Path, overrides: Sequence[Override], *, trust: bool
) -> tuple[Declared, ...]:
    """The experiment of a card, in a group named after it.

    Args:
        card: as it was read.
        file: where from; errors name it.
        overrides: the addresses and other keys of this place.
        trust: whether classes and files of this machine that it names may be used.

    Raises:
        GuardError: it names classes or files, and is not trusted.
        ExperimentError: a key is missing or not valid.
    """
    named = list(_of_this_machine(card.plan))
    if named and not trust:
        raise GuardError(
            f"{file}: names code or files of this machine: {text.listing(named, limit=4)}",
            "read what they are, then: --trust",
        )
    again = {
        **plan_of(card.plan),
        "group": f"{str(card.content['group'])[:_NAME]}.{card.name[-8:]}",
    }
    return load_stages(None, inline=again, overrides=overrides, inline_source=str(file))


def _of_this_machine(plan: Mapping[str, Any]) -> Iterator[str]:
    """What in a plan means a place, a class to be imported or a file to be read."""
    yield from (f"engine.{key}" for key in plan["engine"] if key not in plan_of(plan)["engine"])
    tasks = (task for task in plan.get("tasks") or () if ":" in str(task))
    yield from (f"tasks: {task}" for task in tasks)
    for section in (*_SECTIONS, "engine.name"):
        for word in _words(Snapshot(plan).get(section)):
            if _OF_A_MACHINE.search(word):
                yield f"{section}: {word}"


def _words(value: Any) -> Iterator[str]:
    """The texts in a value, names of keys too."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _words(inner)
    elif isinstance(value, str):
        yield value


def reproduced(card: Card, again: Card) -> Reproduced:
    """Compare a card with what came of asking it again.

    Raises:
        UsageError: no cell is in both.
        InfrastructureError: what is in both was not measured.
    """
    found = compare(card.side, again.side, names=(card.name, "asked again"))
    was, is_ = card.content["replies"], again.content["replies"]
    same = frozenset(item for item, words in was.items() if is_.get(item) == words)
    return Reproduced(card, again, found, same)
