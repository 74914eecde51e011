"""What tokens cost."""

from __future__ import annotations

from pytest_kvbench.experiment.section import Section, about


class Prices(Section):
    """What a hosted model costs, per million tokens."""

    prompt: float = about("a number of at least 0", ge=0, le=1e9)
    completion: float = about("a number of at least 0", ge=0, le=1e9)
    currency: str = about("a name, as in USD", default="USD")
