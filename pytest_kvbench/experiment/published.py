"""What a paper reports of the same cells, for the report to show beside ours."""

from __future__ import annotations

from pytest_kvbench.experiment.section import Count, Fraction, Section, about
from pytest_kvbench.records import FULL_CACHE


class PublishedScore(Section):
    """One published score. A cache of so many tokens is no fixed share of a prompt."""

    score: float = about("the metric times 100, as papers give it", ge=0, le=100)
    policy: str = about("a policy of this experiment; none is the full cache", default=FULL_CACHE)
    budget: Fraction | None = about("the share kept: 1 - compression ratio", default=None)
    tokens: Count | None = about("the cache in tokens, where a paper says that", default=None)
    task: str | None = about("a task; unset: the mean over all tasks here", default=None)


class Published(Section):
    """A paper's table."""

    source: str = about("where it stands: paper, table or figure", min_length=1)
    model: str = about("the model it is of", min_length=1)
    scores: tuple[PublishedScore, ...] = about(
        "a list: [{score: 95.4}, {policy: snapkv, budget: 0.5, score: 67.0}]",
        min_length=1,
        max_length=1_000,
    )
