"""The likelihood of right-or-wrong answers, compiled (numba): most of what a sampler costs.

An answer with a budget of its own (a share `rho`) is whole at the rungs above it and broken at all
others; which rung that is is summed over. The others break at each rung anew. Whole answers flip by
chance (f1, f0), broken ones are right by luck (h):

    P(outcomes) = rho sum_t (w_t - w_t-1) prod_{j<t} whole_j prod_{j>=t} broken_j
                  + (1 - rho) prod_j [(1 - w_j) whole_j + w_j broken_j]

Rows only add up how much each outcome weighs; derivatives are taken once a curve.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

SMALLEST = 1e-300


class Room(NamedTuple):
    """Scratch for one curve of k rungs.

    Attributes:
        rungs: w, its derivatives by mu and s, and the gradient by w, shape (4, k).
        says, slopes: see `emissions`.
        each: how likely an outcome of an answer is that breaks anew, by control and outcome,
            shape (2, 3, k).
        step: how much w rises at a rung, shape (k + 1,).
        tail, held: of one row, how likely its outcomes are from a rung on if broken, and all of
            them if whole above it and broken from there on, shape (k + 1,).
        own, anew, reached: sums over rows, see `rows_likelihood`.
        gradient: four numbers.
    """

    rungs: Any
    says: Any
    slopes: Any
    each: Any
    step: Any
    tail: Any
    held: Any
    own: Any
    anew: Any
    reached: Any
    gradient: Any


@njit(cache=True, nogil=True, error_model="numpy")
def new_room(rungs):
    """Scratch for curves of so many rungs."""
    return Room(
        np.empty((4, rungs)),
        np.empty((2, 2, 3)),
        np.empty((2, 2, 3)),
        np.empty((2, 3, rungs)),
        np.empty(rungs + 1),
        np.empty(rungs + 1),
        np.empty(rungs + 1),
        np.empty((2, 2, 3)),
        np.empty((2, 3, rungs)),
        np.empty(rungs + 1),
        np.empty(4),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def emissions(f1, f0, h, says, slopes):
    """How likely each outcome is, and how its logarithm changes with the logit of f or h.

    Args:
        says, slopes: written; by whether the answer is broken, whether the control is right, and
            the outcome, shape (2, 2, 3). The last outcome, which -1 finds, was not measured.
    """
    says[:, :, -1], slopes[:, :, -1] = 1, 0
    for control in range(2):
        f = f1 if control else f0
        says[0, control, control], slopes[0, control, control] = 1 - f, -f
        says[0, control, 1 - control], slopes[0, control, 1 - control] = f, 1 - f
        says[1, control, 1], slopes[1, control, 1] = h, 1 - h
        says[1, control, 0], slopes[1, control, 0] = 1 - h, -h


@njit(cache=True, nogil=True, error_model="numpy")
def begin(w, room):
    """Write to `room` what all rows of a curve share, whose outcomes have `emissions`."""
    k = len(w)
    for j in range(k):
        room.step[j] = w[j] - (w[j - 1] if j else 0.0)
        room.each[:, :, j] = (1 - w[j]) * room.says[0] + w[j] * room.says[1]
    room.step[k], room.tail[k] = 1 - w[k - 1], 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def row(control, outcome, room):
    """How likely one row is if its answers have a budget each, and if they break anew."""
    k = len(outcome)
    says, each, step, tail, held = room.says, room.each, room.step, room.tail, room.held
    for j in range(k - 1, -1, -1):
        tail[j] = tail[j + 1] * says[1, control, outcome[j]]
    head, owned, anew = 1.0, 0.0, 1.0
    for j in range(k):
        held[j] = head * tail[j]
        owned += step[j] * held[j]
        head *= says[0, control, outcome[j]]
        anew *= each[control, outcome[j], j]
    held[k] = head
    return owned + step[k] * head, anew


@njit(cache=True, nogil=True, error_model="numpy")
def rows_value(d, c, rho, room):
    """Log likelihood of a curve's rows, after `begin`."""
    total = 0.0
    for r in range(d.first[c], d.first[c + 1]):
        owned, anew = row(int(d.control[r]), d.outcome[r], room)
        total += d.times[r] * math.log(rho * owned + (1 - rho) * anew + SMALLEST)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def rows_likelihood(d, c, rho, room):
    """The same, and its derivative by logit rho.

    Writes to `room.own`, `room.anew` and `room.reached` how much each outcome weighs, of which
    `rows_gradient` makes the gradient: sums over rows first, derivatives once a curve.
    """
    room.own[:], room.anew[:], room.reached[:] = 0, 0, 0
    total, by_rho = 0.0, 0.0
    for r in range(d.first[c], d.first[c + 1]):
        control, outcome = int(d.control[r]), d.outcome[r]
        owned, anew = row(control, outcome, room)
        likely = rho * owned + (1 - rho) * anew + SMALLEST
        total += d.times[r] * math.log(likely)
        weight = d.times[r] / likely
        by_rho += weight * rho * (1 - rho) * (owned - anew)
        weight_own, weight_anew = weight * rho, weight * (1 - rho) * anew
        broken = 0.0
        for j in range(len(outcome)):
            room.reached[j] += weight_own * room.held[j]
            broken += room.step[j] * room.held[j]
            room.own[0, control, outcome[j]] += weight_own * (owned - broken)
            room.own[1, control, outcome[j]] += weight_own * broken
            room.anew[control, outcome[j], j] += weight_anew
        room.reached[-1] += weight_own * room.held[-1]
    return total, by_rho


@njit(cache=True, nogil=True, error_model="numpy")
def rows_gradient(w, room, g_w, g):
    """Add to `g_w` the gradient by w, to `g` that by the logits of f0, f1 and h."""
    says, slopes = room.says, room.slopes
    for j in range(len(w)):
        g_w[j] += room.reached[j] - room.reached[j + 1]
    for control in range(2):
        for o in range(3):
            g[control] += room.own[0, control, o] * slopes[0, control, o]
            g[2] += room.own[1, control, o] * slopes[1, control, o]
            whole, broken = says[0, control, o], says[1, control, o]
            for j in range(len(w)):
                share = room.anew[control, o, j] / room.each[control, o, j]
                g_w[j] += share * (broken - whole)
                g[control] += share * (1 - w[j]) * whole * slopes[0, control, o]
                g[2] += share * w[j] * broken * slopes[1, control, o]
