"""BABILong's metric (booydar/babilong, babilong/metrics.py): one label of the task, and no other.

A label that the question holds is never the answer and does not count. Labels are looked for as
letters, not as words: as upstream has it, a reply of `none` holds `one` too, and so is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import texts
from pytest_kvbench.records import Meta

_END = re.compile(r"\.|<context>|<example>")


def one_label(prediction: str, answers: Sequence[str], meta: Meta) -> float:
    """1 where the first sentence holds the answer's labels alone.

    Args:
        prediction: the reply.
        answers: the right label; several are joined by commas.
        meta: `labels`, all that may be answered, and the `question`.

    Raises:
        UsageError: `labels` or `question` are missing.
    """
    listed, asked = _labels_and_question(meta)
    labels = {label.lower() for label in listed}
    sentence, question = _END.split(prediction.lower(), maxsplit=1)[0], asked.lower()
    given = {label for label in labels if label in sentence and label not in question}
    target = answers[0].lower()
    wanted = target.split(",") if len(target) > 3 else [target]  # `e,s` is a way, one label
    return float(given == set(wanted) and len(given) == len(wanted))


def check_labels(meta: Meta) -> None:
    """Refuse an example without the labels, or without its question.

    Raises:
        UsageError: naming what is missing.
    """
    _labels_and_question(meta)


def _labels_and_question(meta: Meta) -> tuple[list[str], str]:
    labels, question = texts(meta.get("labels")), meta.get("question")
    if labels is None:
        raise UsageError("metric one_label needs labels, a list of texts", "give them in each row")
    if not isinstance(question, str):
        raise UsageError("metric one_label needs question, a text", "give it in each row")
    return labels, question
