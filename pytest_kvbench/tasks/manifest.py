"""The pinned selection of examples: made once, written as `manifest.json` for people and tools.

Same seed and data give the same bytes on every machine: no times, no paths, no order of rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import replace_bytes
from pytest_kvbench.reading import odd_value
from pytest_kvbench.records import Bin, Example, ManifestEntry, TaskManifest, canonical
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.binning import BinSpec, bin_of, select, size_of, why_empty
from pytest_kvbench.tasks.tokenizers import Tokenizer

SCHEMA = 1


def build_task_manifest(task: Task, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> TaskManifest:
    """Choose the examples of one task.

    Args:
        task: where examples and prompts come from.
        spec: the bins, and how many examples each asks for. Bins may end up short or empty.
        tokenizer: counts the tokens of each prompt's text, before any chat template.
        seed: decides which examples of a bin are taken.
    """
    examples = _distinct(task.examples(spec, tokenizer, seed))
    tokens = tokenizer.count([task.prompt(example).text for example in examples])
    sizes = [size_of(e, t, spec.by) for e, t in zip(examples, tokens, strict=True)]
    bins = spec.generated_bins() if task.generated else _data_bins(task.name, spec, sizes)
    candidates = _assign(examples, tokens, sizes, bins)
    return TaskManifest(
        task=task.name,
        metric=task.metric,
        template_version=task.template_version,
        tokenizer=tokenizer.name,
        bins=bins,
        entries=tuple(select(candidates, spec, seed)),
    )


def _data_bins(task: str, spec: BinSpec, sizes: Sequence[int]) -> tuple[Bin, ...]:
    if spec.edges is None and (why := why_empty(sizes, spec.n)):
        warnings.warn(f"{task}: {why}", stacklevel=3)
    return spec.data_bins(sizes)


def _distinct(examples: Sequence[Example]) -> list[Example]:
    for example in examples:
        _check(example)
    by_id = {example.example_id: example for example in examples}
    if repeated := len(examples) - len(by_id):
        warnings.warn(f"{repeated} of {len(examples)} examples are repeats: left out", stacklevel=3)
    return list(by_id.values())


def _check(example: Example) -> None:
    """Whatever made it (a user's own task, a table), an example must be JSON to be kept and sent.

    Raises:
        UsageError: naming the example and what of it is not.
    """
    texts = {"question": example.question, "context": example.context}
    odd = odd_value({**texts, "answers": example.answers, "meta": example.meta})
    if odd:
        raise UsageError(
            f"example {example.example_id}: {': '.join(odd)}", "needed: text and finite numbers"
        )


def _assign(
    examples: Sequence[Example], tokens: Sequence[int], sizes: Sequence[int], bins: Sequence[Bin]
) -> list[ManifestEntry]:
    placed = (
        (example, bin_of(bins, size), count)
        for example, count, size in zip(examples, tokens, sizes, strict=True)
    )
    return [ManifestEntry(example, index, n) for example, index, n in placed if index is not None]


def write_manifest(path: Path, manifests: Iterable[TaskManifest], meta: Mapping[str, Any]) -> None:
    """Write `manifest.json`, whole or not at all.

    Args:
        path: the file to write; its folder is made where needed.
        manifests: one per task, in the experiment's order.
        meta: JSON data about the selection (seed, experiment). No times and no paths, so that
            the same experiment gives the same bytes.
    """
    tasks = [asdict(manifest) for manifest in manifests]
    data = {"schema": SCHEMA, "meta": dict(meta), "tasks": tasks}
    replace_bytes(path, canonical(data) + b"\n")  # not indented: megabytes that people do not read
