"""Choosing the next token from logits: the likeliest at temperature 0, else a seeded draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_GREEDY_BELOW = 1e-30
"""A temperature at which float32 overflows: only the likeliest token is left long before."""


@dataclass(frozen=True)
class Sampling:
    """How a request has its tokens drawn: temperature, top-p and seed."""

    temperature: float
    top_p: float
    seed: int


class Sampler:
    """Draws one arm's tokens. Each arm has its own generator, so a sweep's draws are a single's."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: torch.Tensor, likeliest: int | None = None) -> int:
        """A token id from logits (vocabulary,), whose likeliest may be there already."""
        if self._sampling.temperature < _GREEDY_BELOW:
            return int(logits.argmax()) if likeliest is None else likeliest
        scaled = logits.to("cpu", torch.float32) / self._sampling.temperature
        probabilities, tokens = scaled.softmax(-1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        # The likeliest always stays: in float32 the smallest top_p is zero.
        probabilities[1:][before[1:] >= self._sampling.top_p] = 0.0
        draw = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(tokens[draw])
