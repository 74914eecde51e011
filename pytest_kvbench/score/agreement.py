"""A score without labels: how far an arm's distributions agree with the full cache's.

The value is what is judged, 1 where nothing moved; all that else is known of the example stands
beside it as parts. Where a server names the likeliest tokens alone, an overlap lies between two
bounds: the value is then the least that it can be, and `overlap_high` the most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from pytest_kvbench.divergence.records import HIGH, MEASURES, Divergence, Measure
from pytest_kvbench.records import Score


class UncomparedError(ValueError):
    """The engine cannot say a measure."""


def agreement(found: Divergence, measure: str) -> Score:
    """An example's value of a measure, and all others as parts.

    `em` is 1 where the arm's likeliest token is the reply's at every position: it would have given
    the same reply.

    Raises:
        UncomparedError: nothing says it.
    """
    bounds = found.bounds(cast("Measure", measure))
    if bounds is None:
        raise UncomparedError(f"nothing says the {measure} of this reply")
    return Score(bounds.low, float(found.prefix == found.n), parts=dict(_parts(found)))


def _parts(found: Divergence) -> Iterator[tuple[str, float]]:
    for measure in MEASURES:
        if (bounds := found.bounds(measure)) is not None:
            yield measure, bounds.low
            if measure == "overlap" and found.k is not None:
                yield f"{measure}{HIGH}", bounds.high
    yield from ((f"kld_{name}", value) for name, value in found.kld_quantiles.items())
    if found.perplexity_ratio is not None:
        yield "perplexity_ratio", found.perplexity_ratio
