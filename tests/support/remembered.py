"""An analysis that was made before is not made again: many tests judge what another judged too."""

from __future__ import annotations

import pickle

from pytest_kvbench.analyse.rules import Analysis
from pytest_kvbench.pipeline.judge import Question

ANEW = Question.answer
_MADE: dict[bytes, bytes] = {}
"""By its question, which holds all that an analysis depends on."""


def answer(question: Question) -> Analysis:
    """A copy of its own for everybody who asks, in place of `Question.answer`."""
    asked = pickle.dumps(question)
    if asked not in _MADE:
        _MADE[asked] = pickle.dumps(ANEW(question))
    made: Analysis = pickle.loads(_MADE[asked])
    return made
