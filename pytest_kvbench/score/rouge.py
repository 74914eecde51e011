"""ROUGE-L as LongBench takes it: the `rouge` package, F of the summary-level longest subsequence.

Its variant counts distinct words and splits sentences at every full stop, so it differs from
Google's `rouge-score`; published LongBench numbers need this one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pytest_kvbench.score.segment import words


def rouge_l(prediction: str, answers: Sequence[str], meta: Mapping[str, Any]) -> float:  # noqa: ARG001  # a metric's signature
    """Best ROUGE-L F over the answers: `rouge_score`."""
    return max((_pair(prediction, answer) for answer in answers), default=0.0)


def rouge_l_zh(prediction: str, answers: Sequence[str], meta: Mapping[str, Any]) -> float:
    """The same on Chinese words: `rouge_zh_score`."""
    return rouge_l(_spaced(prediction), [_spaced(answer) for answer in answers], meta)


def _spaced(text: str) -> str:
    return " ".join(words(text))


def _pair(prediction: str, answer: str) -> float:
    """ROUGE-L F of one pair; 0 where the package fails, as upstream has it.

    It fails on empty texts, and by recursion on sentences of a thousand words together. A thread
    of its own starts with an empty stack: a score does not depend on who asks for it.
    """
    result = 0.0

    def compute() -> None:
        nonlocal result
        try:
            result = float(_scorer().get_scores(prediction, answer)[0]["rouge-l"]["f"])
        except (ValueError, RecursionError):
            result = 0.0

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    return result


@cache
def _scorer() -> Any:
    from rouge import Rouge  # type: ignore[import-untyped]  # ships no types

    return Rouge(metrics=["rouge-l"], stats=["f"])
