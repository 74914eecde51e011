"""The distances between two next-token distributions, each with its formula and source.

p is the full cache's distribution at a position, q the arm's, both given the same tokens before.
Logs are natural. Over a whole vocabulary the functions take arrays of log-probabilities
`[..., vocabulary]`, numpy's or torch's: they use what both share. Over the k likeliest tokens that
a server names they take `{token: log-probability}`, and what they give encloses the exact value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

Array = Any
"""A numpy array or a torch tensor; nothing else of either library is needed here."""

Top = Mapping[Any, float]
"""The likeliest tokens of a distribution, at least one: log-probability by token."""

NEVER = -9999.0
"""The log-probability of what never comes, as vLLM has it: finite, so that distances are."""


def overlap(control: Array, arm: Array) -> Array:
    """1 - total variation distance = 1 - sum |p - q| / 2 = sum min(p, q): 1 is equal, 0 disjoint.

    Source: Levin, Peres: Markov Chains and Mixing Times, proposition 4.2.
    """
    return (1 - abs(_exp(control) - _exp(arm)).sum(-1) / 2).clip(0, 1)


def kld(control: Array, arm: Array) -> Array:
    """Kullback-Leibler divergence of the arm from the control, sum p log(p / q), in nats a token.

    Source: Kullback, Leibler: On Information and Sufficiency, 1951. What llama.cpp's
    `perplexity --kl-divergence` reports, its base model being the control.
    """
    moved = control.clip(min=NEVER) - arm.clip(min=NEVER)
    return (_exp(control) * moved).sum(-1).clip(min=0)


def same_top(control: Array, arm: Array) -> Array:
    """Whether both have the same likeliest token; the first of several that are equally likely."""
    return control.argmax(-1) == arm.argmax(-1)


def overlap_bounds(control: Top, arm: Top) -> tuple[float, float]:
    """The least and the greatest `overlap` of two distributions whose likeliest tokens are these.

    Least: nothing unnamed is shared. Greatest: a token that one side alone names is, on the other,
    as likely as that side's least likely named token at most, and all that is left is shared.
    """
    named = sum(math.exp(min(control[token], arm[token])) for token in control.keys() & arm.keys())
    rest, arm_rest = _unnamed(control), _unnamed(arm)
    ours = min(_at_most(control, arm), arm_rest)
    theirs = min(_at_most(arm, control), rest)
    shared = ours + theirs + min(rest - theirs, arm_rest - ours)
    return min(named, 1.0), min(named + shared, 1.0)


def kld_lower(control: Top, arm: Top) -> float:
    """The least `kld`, in nats: tokens that both name, and all others as one.

    By the log sum inequality: Cover, Thomas: Elements of Information Theory, theorem 2.7.1.
    There is no greatest one: of what the arm does not name, anything may be next to impossible.
    """
    both = control.keys() & arm.keys()
    pairs = [(control[token], arm[token]) for token in both]
    others = [_left(named[token] for token in both) for named in (control, arm)]
    if others[0] > 0:
        pairs.append((math.log(others[0]), math.log(others[1] + _ROUNDED)))
    return max(0.0, math.fsum(math.exp(p) * (max(p, NEVER) - max(q, NEVER)) for p, q in pairs))


def prefix(control: Sequence[Hashable], arm: Sequence[Hashable]) -> int:
    """How many tokens two replies have in common from the beginning."""
    pairs = enumerate(zip(control, arm, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(control), len(arm)))


def perplexity_ratio(nll: float, control_nll: float) -> float:
    """Of mean negative log-probabilities of the same text: exp(nll - control_nll), 1 is equal.

    Source: llama.cpp's `perplexity --kl-divergence`, PPL(Q) / PPL(base).
    """
    return math.exp(min(nll - control_nll, _LARGEST_EXPONENT))


_LARGEST_EXPONENT = 700.0  # of a double
_ROUNDED = 1e-6  # what float32 may lose of a sum: where next to nothing is left, of all that is


def _exp(logs: Array) -> Array:
    if hasattr(logs, "exp"):
        return logs.exp()
    import numpy as np  # late: who compares top tokens alone does without

    return np.exp(logs)


def _at_most(named: Top, other: Top) -> float:
    """The most that tokens `named` alone can share with the other side, which ranks them lower."""
    least = min(other.values())
    return math.fsum(
        math.exp(min(log, least)) for token, log in named.items() if token not in other
    )


def _unnamed(top: Top) -> float:
    return _left(top.values())


def _left(logs: Any) -> float:
    """The probability that is left; servers round, so a sum may be above 1."""
    return max(0.0, 1 - math.fsum(map(math.exp, logs)))
