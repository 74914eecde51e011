"""What is declared of length classes: how many there are, their edges, and how much is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from pytest_kvbench.experiment.limits import MAX_BINS
from pytest_kvbench.experiment.section import Count, Edge, Section, about


class PerBin(Section):
    """How many examples a bin may take, where sampling stops as soon as its cells are decided."""

    min: int = about("examples before the first look, at least 1", default=12, ge=1)
    max: Count = about("examples at which to stop, from min to 100,000", default=200)


class Bins(Section):
    """Length classes of prompts, and how many examples each gets."""

    n: int = about("a whole number of bins, from 1 to 1,000", default=3, ge=1, le=MAX_BINS)
    per_bin: Count | tuple[Count, ...] | PerBin = about(
        "examples per bin: one whole number up to 100,000, or a list with one per bin; {min: 12, "
        "max: 200} under sampling.strategy: sequential",
        default=8,
    )
    edges: tuple[Edge, ...] | None = about(
        "increasing inner edges; n follows", default=None, max_length=MAX_BINS - 1
    )
    range: tuple[Edge, Edge] = about(
        "two increasing numbers: the tokens of generated prompts", default=(256, 2048)
    )
    by: Literal["tokens", "length"] = about(
        "tokens, or length (the data set's own field)", default="tokens"
    )

    @model_validator(mode="before")
    @classmethod
    def _count_from_edges(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("edges"), list | tuple):
            return {"n": len(data["edges"]) + 1, **data}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Bins:
        edges, per_bin = self.edges, self.per_bin
        if edges is not None and self.n != len(edges) + 1:
            raise ValueError(f"n is {self.n}, but {len(edges)} edges make {len(edges) + 1} bins")
        if edges is not None and list(edges) != sorted(set(edges)):
            raise ValueError(f"edges must increase, got {list(edges)}")
        if isinstance(per_bin, tuple) and len(per_bin) != self.n:
            raise ValueError(f"per_bin lists {len(per_bin)} numbers for {self.n} bins")
        if isinstance(per_bin, PerBin) and per_bin.min > per_bin.max:
            raise ValueError(f"per_bin: min {per_bin.min} is above max {per_bin.max}")
        if not 0 < self.range[0] < self.range[1]:
            raise ValueError(f"range must be two increasing numbers, got {list(self.range)}")
        return self

    @property
    def per_bins(self) -> tuple[int, ...]:
        """Examples wanted in each bin, at most."""
        if isinstance(self.per_bin, PerBin):
            return (self.per_bin.max,) * self.n
        return self.per_bin if isinstance(self.per_bin, tuple) else (self.per_bin,) * self.n

    @property
    def least(self) -> int:
        """Examples before the first look, where sampling is sequential."""
        return self.per_bin.min if isinstance(self.per_bin, PerBin) else min(self.per_bins)
