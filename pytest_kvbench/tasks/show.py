"""An example as text for people: `kvbench inspect TASK`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.metric import backend_of
from pytest_kvbench.selection import ManifestEntry
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.tokenizers import Tokenizer

QUESTION = "┄┄┄┄ from here on the question: a policy that is not question-aware never sees it ┄┄┄┄"


def show_task(
    task: Task, spec: BinSpec, tokenizer: Tokenizer, seed: int, *, index: int = 0
) -> Iterator[str]:
    """Lines about one selected example: what it is, its token counts, its prompt as sent.

    Args:
        task: the task.
        spec: bins and counts, as an experiment would give them.
        tokenizer: counts.
        seed: of the selection.
        index: which of the selected examples, in the manifest's order.

    Raises:
        UsageError: there is no such example.
    """
    manifest = build_task_manifest(task, spec, tokenizer, seed)
    if not 0 <= index < len(manifest.entries):
        raise UsageError(
            f"{task.name} has no example {index}", f"valid: 0 to {len(manifest.entries) - 1}"
        )
    entry = manifest.entries[index]
    backend = backend_of(manifest.metric)
    metric = f"{manifest.metric} ({backend})" if backend else manifest.metric
    yield f"{manifest.task}  metric {metric}  template {manifest.template_version}"
    counts = (f"{b.label}: {len(manifest.of_bin(b.index))}" for b in manifest.bins)
    yield f"bins: {', '.join(counts)}  (tokenizer {manifest.tokenizer})"
    yield from _about(entry, task, tokenizer)


def _about(entry: ManifestEntry, task: Task, tokenizer: Tokenizer) -> Iterator[str]:
    example, prompt = entry.example, task.prompt(entry.example)
    head, tail = tokenizer.count([prompt.head, prompt.tail])
    yield f"example {example.example_id}  cluster {example.cluster}  bin {entry.bin}"
    yield f"tokens: {entry.tokens} (context part {head}, question part {tail})"
    yield f"answers: {json.dumps(list(example.answers), ensure_ascii=False)}"
    yield f"meta: {json.dumps(dict(example.meta), ensure_ascii=False)}"
    chat = "with the chat template" if prompt.chat else "as it is, no chat template"
    yield f"sent {chat}; at most {prompt.max_tokens} new tokens; stop {list(prompt.stop)}"
    yield ""
    yield from (prompt.head, QUESTION, prompt.tail)
