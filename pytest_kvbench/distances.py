"""Rows about distributions, as `summary.json` holds them: distances by position of the reply."""

from __future__ import annotations

from typing import TypedDict

from pytest_kvbench.cellkey import Columns


class Quantiles(TypedDict):
    """Of KLD, in nats a token."""

    kld_p50: float
    kld_p90: float
    kld_p99: float
    kld_max: float


class BandRow(Columns, Quantiles):
    """Distances at some positions of replies: `first` to `last` of each, `n` in all."""

    first: int
    last: int
    n: int
    overlap: float


class MovedRow(Columns):
    """A position at which a distribution moved far, with the likeliest token of either side.

    `*_nll` are negative log-probabilities in nats.
    """

    example_id: str
    position: int
    kld: float
    overlap: float | None
    prompt_end: str
    reply: str
    control_token: str | None
    control_nll: float | None
    arm_token: str | None
    arm_nll: float | None
    arm_token_control_nll: float | None


class Moved(TypedDict):
    """How far distributions moved, by position; and the positions that moved most."""

    bands: list[BandRow]
    most: list[MovedRow]
