"""Replies of which a server names the likeliest tokens at each position: kept, and compared.

The distances lie between bounds: see `measures.overlap_bounds` and `kld_lower`. Where all that is
named is equal to the last digit, so is the rest: the sum over the whole vocabulary is in every
log-probability. What is compared is all rounded alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_kvbench.divergence import measures
from pytest_kvbench.divergence.records import (
    Divergence,
    Method,
    Named,
    Positions,
    Token,
    UnsoundError,
)

_DECIMALS = 6
_ENOUGH = 10
"""Tokens of equal log-probabilities that no two distributions have by chance."""
_END = ""
"""The end of a reply, where the server has no token for it."""


@dataclass(frozen=True)
class Step:
    """One position: the token that is there and the likeliest ones, the most likely first.

    `log` is the token's log-probability; where it is not named, the most that it can be.
    """

    token: Token
    log: float
    named: Named

    @property
    def top(self) -> tuple[Token, float]:
        """The likeliest token: of several that are equally likely the one that is there."""
        best = self.named[0]
        return (self.token, self.log) if self.log >= best[1] else best

    def log_of(self, token: Token) -> float:
        """The log-probability of a token, or the most that it can be."""
        if token == self.token:
            return self.log
        return next((log for name, log in self.named if name == token), self.named[-1][1])


def step(token: Token, log: float | None, named: Iterable[tuple[Token, float]], k: int) -> Step:
    """A position, of all that a server names there.

    Tokens of the same name, where it gives texts for ids, are one. A token beyond the k likeliest,
    which some servers add because it came, is not among them.

    Raises:
        UnsoundError: it names nothing.
    """
    together: dict[Token, float] = {}
    for name, its in named:
        together[name] = _sum(together[name], its) if name in together else its
    ordered = sorted(together.items(), key=lambda pair: -pair[1])
    likeliest = tuple((name, round(its, _DECIMALS)) for name, its in ordered[:k])
    if not likeliest:
        raise UnsoundError("a position names no token; valid: the likeliest, with logprobs")
    known = together.get(token, likeliest[-1][1]) if log is None else log
    return Step(token, round(known, _DECIMALS), likeliest)


def own(steps: Sequence[Step], method: Method, k: int, *, ends: bool = False) -> Divergence:
    """The record of the full cache's own reply, which others can be compared with.

    Args:
        steps: its positions.
        method: how it was asked.
        k: how many tokens a position were asked for.
        ends: whether it ended by itself, and no step says so.

    Raises:
        UnsoundError: nothing is named of it.
    """
    _check_named(steps, ends)
    n, ones, zeros = len(steps) + ends, (1.0,) * len(steps), (0.0,) * len(steps)
    found = replace(
        _said(steps, steps),
        overlap_low=ones,
        overlap_high=ones,
        kld_low=zeros,
        kld_high=zeros,
        named=tuple(step.named for step in steps),
    )
    return Divergence(method, n, n, k, found)


def against(control: Divergence, steps: Sequence[Step], *, ends: bool = False) -> Divergence:
    """How far a reply is from the full cache's, whose record `own` made.

    Forced replies have the same tokens; of free ones the positions up to the first difference, and
    that one, are compared.

    Raises:
        UnsoundError: they cannot be compared.
    """
    full = _steps(control)
    _check_named(steps, ends)
    if control.method == "forced":
        return _forced(control, full, steps)
    return _free(control, full, steps, ends)


def _check_named(steps: Sequence[Step], ends: bool) -> None:
    if not steps and not ends:
        raise UnsoundError("its server names no token of a reply; valid: logprobs of each position")


def _forced(control: Divergence, full: Sequence[Step], steps: Sequence[Step]) -> Divergence:
    if [one.token for one in full] != [one.token for one in steps]:
        raise UnsoundError("another reply was forced; valid: the full cache's")
    found = _compared(full, steps)
    prefix = found.same_top.index(False) if False in found.same_top else len(full)
    return replace(control, prefix=prefix, positions=found)


def _free(
    control: Divergence, full: Sequence[Step], steps: Sequence[Step], ends: bool
) -> Divergence:
    tokens = [one.token for one in full] + [_END] * (control.n - len(full))
    prefix = measures.prefix(tokens, [*(one.token for one in steps), *([_END] if ends else [])])
    found = _compared(full[: prefix + 1], steps[: prefix + 1])
    return replace(control, prefix=prefix, positions=found)


def _steps(control: Divergence) -> list[Step]:
    found = control.positions
    columns = (found.reference, found.nll, found.named)
    if len({*map(len, columns)}) != 1 or control.n - len(found.reference) not in (0, 1):
        raise UnsoundError("the full cache's reply is not kept; valid: the record of its own run")
    return [Step(token, -nll, named) for token, nll, named in zip(*columns, strict=True)]


def _compared(full: Sequence[Step], arm: Sequence[Step]) -> Positions:
    pairs = list(zip(full, arm, strict=False))
    named = [(dict(a.named), dict(b.named)) for a, b in pairs]
    bounds = [_bounds(*both) for both in named]
    return replace(
        _said(*zip(*pairs, strict=True)) if pairs else Positions(),
        overlap_low=tuple(low for low, _ in bounds),
        overlap_high=tuple(high for _, high in bounds),
        kld_low=tuple(measures.kld_lower(*both) for both in named),
    )


def _bounds(control: measures.Top, arm: measures.Top) -> tuple[float, float]:
    if control == arm and len(arm) >= _ENOUGH:
        return 1.0, 1.0
    return measures.overlap_bounds(control, arm)


def _said(full: Sequence[Step], arm: Sequence[Step]) -> Positions:
    """What both say at each position, of the full cache's token there and of their own."""
    pairs = list(zip(full, arm, strict=True))
    return Positions(
        reference=tuple(a.token for a in full),
        nll=tuple(_nll(b.log_of(a.token)) for a, b in pairs),
        control_nll=tuple(_nll(a.log) for a in full),
        top=tuple(b.top[0] for b in arm),
        top_nll=tuple(_nll(b.top[1]) for b in arm),
        top_control_nll=tuple(_nll(a.log_of(b.top[0])) for a, b in pairs),
        control_top=tuple(a.top[0] for a in full),
        control_top_nll=tuple(_nll(a.top[1]) for a in full),
        same_top=tuple(a.top[0] == b.top[0] for a, b in pairs),
    )


def _nll(log: float) -> float:
    return max(0.0, -log)


def _sum(a: float, b: float) -> float:
    """The log of the sum of two probabilities."""
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
