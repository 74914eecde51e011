"""Chinese words, through jieba as LongBench cuts them, and the F1 on them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from pytest_kvbench.extras import need
from pytest_kvbench.records import Meta
from pytest_kvbench.score.text import bag_f1

# LongBench's set (metrics.py, normalize_zh_answer), as ranges. U+300A is not in it, U+300B is.
_PUNCTUATION = re.compile(
    r"[!-/:-@\[-`{-~\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u3001-\u3003\u300b-\u3011"
    r"\u3014-\u301f\u3030\u303e\u303f\ufe4f\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)


def f1_zh(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Best F1 over the answers, of the bags of normalised Chinese words: `qa_f1_zh_score`."""
    given = normalised_words(prediction)
    return max((bag_f1(given, normalised_words(answer)) for answer in answers), default=0.0)


def words(text: str) -> list[str]:
    """`text` cut into words, blanks and signs included; joined they are `text` again."""
    return list(_jieba().cut(text, cut_all=False))


def normalise_zh(text: str) -> str:
    """Lower case, no punctuation, no white space."""
    return "".join(_PUNCTUATION.sub("", text.lower()).split())


def normalised_words(text: str) -> list[str]:
    """The words of `text` as `f1_zh` counts them."""
    return [word for word in map(normalise_zh, words(text)) if word]


@cache
def _jieba() -> Any:
    """The cutter, with its dictionary loaded on first use (about a second)."""
    need(["jieba"], "the cutting of Chinese words")
    with warnings.catch_warnings():
        # jieba 0.42.1 imports pkg_resources and has invalid escapes in its source.
        warnings.simplefilter("ignore")
        import jieba  # type: ignore[import-untyped]  # ships no types
    jieba.setLogLevel(logging.WARNING)  # else it reports its start on stderr
    return jieba
