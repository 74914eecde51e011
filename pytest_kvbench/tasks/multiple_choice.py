"""Multiple-choice questions with four options, as LongBench v2 has them: the rows, read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import brief
from pytest_kvbench.records import Example
from pytest_kvbench.score.credited import LETTERS
from pytest_kvbench.tasks.base import example_id
from pytest_kvbench.tasks.columns import Row, check_cluster, text_of

FIELDS = "question, context, choice_A to choice_D (or choices: a list of four), answer (A to D)"


def choice_examples(rows: Iterable[Row], task: str) -> Iterator[Example]:
    """The example of every row: `answers` is the letter, `meta["options"]` the four texts.

    Raises:
        UsageError: naming the row that lacks a field.
    """
    for number, row in enumerate(rows, start=1):
        try:
            yield _example(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{task}: row {number}: {error}", f"needed: {FIELDS}") from error


def _example(row: Row) -> Example:
    options = _options(row)
    question, context = text_of(row, "question").strip(), text_of(row, "context", "").strip()
    answer = text_of(row, "answer").strip()
    if answer not in LETTERS:
        raise ValueError(f"answer {answer!r} is none of A, B, C, D")
    check_cluster(row)
    keys = ("_id", "id", "cluster", "domain", "sub_domain", "difficulty", "length")
    meta = {key: row[key] for key in keys if row.get(key) is not None}
    meta |= {key: _four(row[key]) for key in ("support", "cards") if row.get(key)}
    text = "\n".join([question, *options])
    identity = example_id("choice", text, context, [answer], str(row.get("_id", row.get("id", ""))))
    return Example(identity, question, context, (answer,), {**meta, "options": options})


def _options(row: Row) -> list[str]:
    return _four(row.get("choices") or [text_of(row, f"choice_{letter}") for letter in LETTERS])


def _four(given: object) -> list[str]:
    texts = [given[letter] for letter in LETTERS] if isinstance(given, Mapping) else given
    if not isinstance(texts, list | tuple):
        raise ValueError(f"{brief(given)} is no list of texts")
    if len(texts) != len(LETTERS):
        raise ValueError(f"{len(texts)} texts for the options instead of {len(LETTERS)}")
    return [text.strip() for text in texts]
