"""Scores by example out of the result files that people have, for `kvbench judge`.

lm-eval   samples_TASK_TIME.jsonl   a score a line, under its metric's name
Inspect   .eval, .json              the scores of each sample
kvpress   predictions.csv           replies, scored here: with a task
anybody   .jsonl, .csv              a column `score`, or replies as `kvbench score-file` takes
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pytest_kvbench import hints
from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import brief, parse_json, read_text
from pytest_kvbench.records import digest
from pytest_kvbench.tasks.columns import Row
from pytest_kvbench.tasks.predictions import rows_of, score_file
from pytest_kvbench.tasks.registry import TaskFactory
from pytest_kvbench.wire import sound

_NAMES = ("samples_*.jsonl", "*.eval", "*.json", "predictions.csv", "*.jsonl", "*.csv")
"""What is looked for in a folder: the first of them that is there."""
_LM_EVAL = re.compile(r"samples_(?P<task>.+?)_\d{4}-\d\d-\d\dT[\d.:-]+")
_WORDS: Mapping[str, float] = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's own: correct, partially, incorrect, no answer."""
_OF_LM_EVAL = frozenset({"doc_id", "doc", "filtered_resps"})
_IDS = ("example_id", "_id", "id", "doc_hash", "doc_id")

TREATED = "treated"
"""The policy of a file that names none."""

Key = tuple[str, str]
"""Task and example."""


@dataclass(frozen=True)
class Scores:
    """Of one side: the score of each example, and the context that it shares with others."""

    by_example: dict[Key, float]
    contexts: dict[Key, str]

    def add(self, key: Key, score: float, context: str) -> None:
        """Take the score of one example."""
        self.by_example[key], self.contexts[key] = score, context


@dataclass(frozen=True)
class Choice:
    """What is taken of a file: `metric` among several, `task` for replies that have no score."""

    metric: str = ""
    task: str = ""
    extra: Mapping[str, TaskFactory] | None = None


@dataclass(frozen=True)
class _Row:
    task: str
    example: str
    score: float
    context: str = ""


def read_scores(path: Path, choice: Choice) -> Scores:
    """The scores in a file or folder; those of one example are averaged.

    Raises:
        UsageError: nothing is there that is known, or it has no scores.
    """
    found: dict[Key, list[float]] = defaultdict(list)
    contexts: dict[Key, str] = {}
    for file in _files(path):
        for row in _rows(file, choice):
            key = row.task, row.example
            found[key].append(row.score)
            contexts[key] = row.context or row.example
    if not found:
        raise UsageError(f"{path}: holds no scored example", f"known are {_KNOWN}")
    return Scores({key: fmean(scores) for key, scores in found.items()}, contexts)


_KNOWN = "lm-eval's samples_*.jsonl, Inspect's .eval and .json, predictions.csv, .jsonl and .csv"


def pairs_of(
    control: Scores, treated: Scores, policy: str = TREATED, budget: float = 0.5
) -> Iterator[dict[str, object]]:
    """A row for `judge_pairs` for each example that both sides have.

    Where nothing is known of the policy and the budget, they decide nothing.
    """
    for task, example in control.by_example.keys() & treated.by_example.keys():
        key = task, example
        yield {
            "task": task or "all",
            "bin": 0,
            "policy": policy,
            "budget": budget,
            "example_id": example,
            "cluster": control.contexts[key],
            "control": control.by_example[key],
            "treated": treated.by_example[key],
        }


def _files(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    for name in _NAMES:
        if files := sorted(path.rglob(name)):
            return _newest(files)
    raise UsageError(f"{path}: holds no result file", f"known are {_KNOWN}")


def _newest(files: Iterable[Path]) -> list[Path]:
    """Of lm-eval's, which bear their time, the last of each task."""
    last: dict[str, Path] = {}
    for file in files:
        found = _LM_EVAL.match(file.name)
        last[found["task"] if found else str(file)] = file
    return list(last.values())


def _rows(file: Path, choice: Choice) -> Iterator[_Row]:
    if file.suffix == ".eval":
        yield from _archive(file, choice)
    elif file.suffix == ".json" and isinstance(log := _json(file), Mapping) and "samples" in log:
        yield from _samples(file, log, log["samples"] or [], choice)
    else:
        yield from _lines(file, choice)


# -- Inspect -------------------------------------------------------------------------------------


def _json(file: Path) -> Any:
    return parse_json(read_text(file), str(file))


def _archive(file: Path, choice: Choice) -> Iterator[_Row]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            header = "header.json" if "header.json" in names else "_journal/start.json"
            log = json.loads(archive.read(header))
            members = (name for name in names if name.startswith("samples/"))
            samples = [json.loads(archive.read(name)) for name in members]
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise UsageError(f"{file}: is no log of Inspect: {error}", f"known are {_KNOWN}") from error
    yield from _samples(file, log, samples, choice)


def _samples(
    file: Path, log: Mapping[str, object], samples: Iterable[Row], choice: Choice
) -> Iterator[_Row]:
    declared = sound.fields(log.get("eval"))
    data = sound.fields(declared.get("dataset"))
    # A run of ours has an arm in its task's name; both sides have the data in common.
    task = str(data.get("name") or declared.get("task") or "")
    unscored = 0
    for sample in samples:
        scores = sound.fields(sample.get("scores"))
        if not scores:
            unscored += 1  # it failed, or was not scored
            continue
        name = _chosen(file, list(scores), choice.metric)
        value = sound.fields(scores[name]).get("value")
        yield _Row(task, str(sample.get("id")), _number(file, name, value))
    _say_incomplete(file, log.get("status"), unscored)


def _say_incomplete(file: Path, status: object, unscored: int) -> None:
    """Of a run that did not end well, or that left samples without a score."""
    said = [] if status in (None, "success") else [f"its run ended with status {brief(status)}"]
    said += [f"{hints.count(unscored, 'sample')} without a score left out"] if unscored else []
    if said:
        warnings.warn(f"{file}: {'; '.join(said)}", stacklevel=2)


def _chosen(file: Path, names: Sequence[str], wanted: str) -> str:
    if wanted and wanted not in names:
        raise UsageError(f"{file}: has no metric {wanted!r}", f"valid: {', '.join(names)}")
    return wanted or names[0]


def _number(file: Path, name: str, value: object) -> float:
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number is refused
    except (TypeError, ValueError):
        raise UsageError(
            f"{file}: {name} is {brief(value)}, no score in [0, 1]", "name another: --metric NAME"
        ) from None


# -- lines ---------------------------------------------------------------------------------------


def _lines(file: Path, choice: Choice) -> Iterator[_Row]:
    rows = list(rows_of(file))
    if rows and rows[0].keys() >= _OF_LM_EVAL:
        yield from _lm_eval(file, rows, choice.metric)
        return
    scores = _given(file, rows, choice)
    seen: dict[str, int] = defaultdict(int)
    for row, score in zip(rows, scores, strict=True):
        context = row.get("context")
        about = digest([context])[:16] if isinstance(context, str) else ""
        task = str(row.get("task") or choice.task)
        identity = _identity(row)
        seen[identity] += 1
        again = f"#{seen[identity]}" if not any(name in row for name in _IDS) else ""
        yield _Row(task, identity + again, score, str(row.get("cluster") or about))


def _given(file: Path, rows: Sequence[Row], choice: Choice) -> list[float]:
    """A column of scores; without one, replies are scored by a task's metric."""
    column = choice.metric if not choice.task and choice.metric else "score"
    if rows and column in rows[0]:
        return [_number(file, column, row.get(column)) for row in rows]
    if not choice.task:
        raise UsageError(
            f"{file}: holds replies without a score",
            "name the task whose metric scores them: --task longbench/qasper",
        )
    options = {"metric": choice.metric} if choice.metric else {}
    scored = score_file(choice.task, file, options=options, extra=choice.extra)
    return [line["score"] for line in scored]


def _identity(row: Row) -> str:
    """An example's id, or a digest of what was asked."""
    for name in _IDS:
        if row.get(name) is not None:
            return str(row[name])
    asked = [str(row.get(name)) for name in ("task", "context", "question", "answers", "answer")]
    return digest(asked)[:16]


def _lm_eval(file: Path, rows: Sequence[Row], metric: str) -> Iterator[_Row]:
    """Of several filters of one reply the first is taken."""
    found = _LM_EVAL.match(file.name)
    task = found["task"] if found else file.stem.removeprefix("samples_")
    first = rows[0].get("filter")
    for row in rows:
        if row.get("filter") != first:
            continue
        name = _chosen(file, _metrics(row), metric)
        doc = row["doc"] if isinstance(row["doc"], Mapping) else {}
        context = next((doc[key] for key in ("context", "passage") if doc.get(key)), None)
        about = digest([context])[:16] if context is not None else ""
        yield _Row(task, _identity(row), _number(file, name, row[name]), about)


def _metrics(row: Row) -> list[str]:
    """The columns that are scores: those that are named, in older files every number."""
    named = row.get("metrics")
    if isinstance(named, list) and named:
        return [str(name) for name in named]
    numbers = [k for k, v in row.items() if isinstance(v, int | float) and k not in _OF_LM_EVAL]
    if not numbers:
        raise UsageError("a sample of lm-eval has no metric", "name a file with scores")
    return numbers
