"""Groups as a run leaves them, made through the store's own API, without a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from pytest_kvbench.analyse.rules import Analysis
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Prepared, open_group
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.records import Answer, Cell, Example, Failure, Score, Telemetry
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest
from pytest_kvbench.store.store import DATABASE, RunRow, Store
from pytest_kvbench.tasks.registry import get_task

TASK = "jsonl:words.jsonl"
STARTED = "2026-11-22T01:00:00.000+00:00"

Draw = Callable[[Cell, int, random.Random], float]
"""A score for the i-th example of a cell."""


def by_budget(cell: Cell, i: int, rng: random.Random) -> float:
    """The smaller the budget, the likelier a loss; one draw per example for all budgets."""
    return float(random.Random(f"{cell.task}{cell.bin}{i}").random() < 0.3 + 0.7 * cell.budget)


def make_group(
    reports: Path,
    group: str = "g",
    *,
    draw: Draw = by_budget,
    examples: str = "",
    per_bin: int = 20,
    bins: int = 2,
    failed: int = 0,
    analysis: Analysis | None = None,
    tokens: int = 0,
    applied: Callable[[Cell], float | None] = lambda cell: cell.budget,
    **keys: object,
) -> Prepared:
    """A group, answered, scored and analysed.

    Args:
        reports: where it is made.
        group: its name.
        draw: what each answer scores.
        examples: of another name are other examples.
        per_bin: examples per bin, and `bins` of them.
        bins: how many.
        failed: requests of the smallest budget in bin 0 that fail.
        analysis: what is stored as such; by default the group's own.
        tokens: by how many its prompts are longer.
        applied: the share of bytes that is said to be kept, None where nobody says.
        keys: of the experiment.
    """
    experiment = Experiment(
        **{
            "group": group,
            "tasks": [TASK],
            "bins": {"n": bins, "per_bin": per_bin},
            "kv": {"policies": ["snapkv"], "budgets": [1.0, 0.5, 0.2]},
            "tokenizer": "approximate",
            "description": "made up",
            **keys,
        }
    )
    manifests = {task: manifest(task, bins, per_bin, examples, tokens) for task in experiment.tasks}
    rng = random.Random(group)
    with Store(reports / group / DATABASE) as store:
        for one in manifests.values():
            store.save_manifest(one, {"seed": 0})
        store.start_run(
            RunRow(f"run-{group}", experiment.snapshot(), {"weights": "m"}, 0, "pytest", STARTED)
        )
        answer_all(store, experiment, manifests, draw, rng, failed, applied)
    prepared = open_group(reports / group)
    if analysis is None:
        analysis = judge(experiment, observed(prepared).rows)
    with Store(prepared.database) as store:
        store.save_analysis(analysis.bin_stats, analysis.cells, analysis.transitions)
    return prepared


def manifest(task: str, bins: int, per_bin: int, examples: str, tokens: int = 0) -> TaskManifest:
    edges = tuple(
        Bin(b, 100 * b if b else None, 100 * (b + 1) if b < bins - 1 else None) for b in range(bins)
    )

    def entry(bin_: int, i: int) -> ManifestEntry:
        name = f"{examples}{bin_}-{i}"
        example = Example(f"{task}{name}", f"q{i}", f"context {name}", ("x",))
        prompt = get_task(task).prompt(example)
        return ManifestEntry(
            example, bin_, tokens + 100 * bin_ + i, prompt.content_id, prompt.max_tokens
        )

    entries = tuple(entry(b, i) for b in range(bins) for i in range(per_bin))
    return TaskManifest(task, "any_of", "own-1", "approximate", edges, entries)


def answer_all(
    store: Store,
    experiment: Experiment,
    manifests: dict[str, TaskManifest],
    draw: Draw,
    rng: random.Random,
    failed: int = 0,
    applied: Callable[[Cell], float | None] = lambda cell: cell.budget,
) -> None:
    cells = plan.cells(experiment)
    target = plan.Target({"weights": "m"}, 0)
    asked = list(plan.requests(experiment, cells, manifests, {}, target))
    numbers = {
        e.example.example_id: i
        for m in manifests.values()
        for b in m.bins
        for i, e in enumerate(m.of_bin(b.index))
    }
    tokens = {e.example.example_id: e.tokens for m in manifests.values() for e in m.entries}
    smallest = min(cell.budget for cell, _ in asked)
    lost = [r for c, r in asked if c.budget == smallest and c.bin == 0][:failed]
    kept = [(c, r) for c, r in asked if r not in lost]
    store.save_requests([r for _, r in asked])
    store.save_failures([Failure(r.key, "TIMEOUT", "too slow") for r in lost])
    store.save_answers(
        [
            Answer(
                r.key,
                f"answer {numbers[r.example_id]}",
                "stop",
                Telemetry(
                    1.0, prompt_tokens=100 + tokens[r.example_id], completion_tokens=5,
                    achieved=applied(c), kept_bytes=int(1000 * c.budget), full_bytes=1000,
                ),
            )
            for c, r in kept
        ]
    )  # fmt: skip
    store.save_scores(
        [
            (r.key, "any_of", Score(score, score))
            for c, r in kept
            for score in [draw(c, numbers[r.example_id], rng)]
        ]
    )
