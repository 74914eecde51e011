"""The pinned selection of examples: made once, written as `manifest.json` for people and tools.

Same seed and data give the same bytes on every machine: no times, no paths, no order of rows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pytest_kvbench.errors import GuardError, UsageError
from pytest_kvbench.files import replace_in_pieces
from pytest_kvbench.reading import odd_value
from pytest_kvbench.records import Example, Prompt, canonical
from pytest_kvbench.selection import Bin, ManifestEntry, Selection, TaskManifest
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.binning import (
    BinSpec,
    Candidate,
    bin_of,
    empty_bins,
    select,
    size_of,
)
from pytest_kvbench.tasks.shelf import Shelf
from pytest_kvbench.tasks.tokenizers import Tokenizer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 1
_TOGETHER = 200  # prompts that are counted at once


def build_task_manifest(task: Task, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> TaskManifest:
    """Choose the examples of one task.

    Args:
        task: where examples and prompts come from.
        spec: the bins, and how many examples each asks for. Bins may end up short or empty.
        tokenizer: counts the tokens of each prompt's text, before any chat template.
        seed: decides which examples of a bin are taken.
    """
    examples = _distinct(task.examples(spec, tokenizer, seed))
    tokens = _counted(task, examples, tokenizer)
    sizes = [size_of(e, t, spec.by) for e, t in zip(examples, tokens, strict=True)]
    bins = spec.generated_bins() if task.generated else _data_bins(task.name, spec, sizes)
    candidates = _assign(examples, tokens, sizes, bins)
    return TaskManifest(
        task=task.name,
        metric=task.metric,
        template_version=task.template_version,
        tokenizer=tokenizer.name,
        bins=bins,
        entries=tuple(_pinned(task, chosen) for chosen in select(candidates, spec, seed)),
    )


def _pinned(task: Task, chosen: Candidate) -> ManifestEntry:
    """The example, and so its prompt, as it is stored: there a tuple in `meta` is a list."""
    example = chosen.example
    if example.meta:
        example = example.noting(json.loads(canonical(dict(example.meta))))
    prompt = task.prompt(example)
    return ManifestEntry(example, *chosen[1:], prompt.content_id, prompt.max_tokens)


def pinned_prompt(task: Task, entry: ManifestEntry) -> Prompt:
    """What a task alone sends for a chosen example.

    Raises:
        GuardError: it is not what the task sent when the example was chosen.
    """
    prompt = task.prompt(entry.example)
    if prompt.content_id != entry.prompt:
        raise GuardError(
            f"{task.name}: the prompt of example {entry.example.example_id}, its stop strings or "
            f"length are others than when it was chosen, and the template's version is not: "
            f"{task.template_version}",
            "undo the change, give the experiment another group, or choose and ask anew: "
            "--kvbench-force",
        )
    return prompt


def check_prompts(task: Task, manifest: TaskManifest) -> None:
    """Refuse stored examples of which a task now makes other prompts, one after the other.

    Raises:
        GuardError: see `pinned_prompt`.
    """
    for entry in manifest.entries:
        pinned_prompt(task, entry)


def _data_bins(task: str, spec: BinSpec, sizes: Sequence[int]) -> tuple[Bin, ...]:
    if spec.edges is None and (problem := empty_bins(sizes, spec.n)):
        warnings.warn(f"{task}: {problem}", stacklevel=3)
    return spec.data_bins(sizes)


def _distinct(examples: Iterable[Example]) -> list[Example]:
    shelf, by_id, total = Shelf(), dict[str, Example](), 0
    for total, example in enumerate(examples, start=1):  # noqa: B007 -- read after it
        _check(example)
        by_id[example.example_id] = shelf.put(example)
    if repeated := total - len(by_id):
        warnings.warn(f"{repeated} of {total} examples are repeats: left out", stacklevel=3)
    return list(by_id.values())


def _counted(task: Task, examples: Sequence[Example], tokenizer: Tokenizer) -> list[int]:
    """The tokens of each prompt."""
    counts: list[int] = []
    for start in range(0, len(examples), _TOGETHER):
        some = examples[start : start + _TOGETHER]
        counts += tokenizer.count([task.prompt(example).text for example in some])
    return counts


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
) -> list[Candidate]:
    placed = (
        (example, bin_of(bins, size), count)
        for example, count, size in zip(examples, tokens, sizes, strict=True)
    )
    return [Candidate(example, index, n) for example, index, n in placed if index is not None]


class About(TypedDict):
    """What `manifest.json` says beside what was chosen."""

    group: str
    selection: Mapping[str, Selection]


def write_manifest(path: Path, manifests: Iterable[TaskManifest], meta: About) -> None:
    """Write `manifest.json`, whole or not at all.

    Args:
        path: the file to write; its folder is made where needed.
        manifests: one per task, in the experiment's order.
        meta: whose selection it is, and what it was made with. No times and no paths, so that
            the same experiment gives the same bytes.
    """
    replace_in_pieces(path, _pieces(manifests, meta))  # megabytes, so not indented


def _pieces(manifests: Iterable[TaskManifest], meta: About) -> Iterator[bytes]:
    """Canonical JSON of it all, an example after the other."""
    yield b'{"meta":%b,"schema":%d,"tasks":[' % (canonical(dict(meta)), SCHEMA)
    for number, manifest in enumerate(manifests):
        rest = {**_fields(manifest), "bins": [_fields(b) for b in manifest.bins], "entries": []}
        before, after = canonical(rest).split(b'"entries":[]')
        yield b"," * (number > 0) + before + b'"entries":['
        for place, entry in enumerate(manifest.entries):
            plain = {**_fields(entry), "example": _fields(entry.example)}
            yield b"," * (place > 0) + canonical(plain)
        yield b"]" + after
    yield b"]}\n"


def _fields(record: DataclassInstance) -> dict[str, object]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
