"""Elliptical slice sampling, block by block: no gradient, no step size, nothing to adapt.

Murray, Adams & MacKay (2010): draw a second vector from the normal prior and a level below the
likelihood, and shrink an angle on the ellipse through both until the likelihood is above it. One
curve's three unknowns move together and cost its own rows alone; what curves share moves after
them. Moves that leave the likelihood as it is (a policy's mean up, its curves' departures down)
are drawn exactly, which is what couples a mean to its curves otherwise.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pytest_kvbench.posterior.density import curve_value, natural, spread
from pytest_kvbench.posterior.outcomes import SMALLEST, new_room


@njit(cache=True, nogil=True, error_model="numpy")
def likelihood(z, d, curves, room):
    """Log likelihood of `curves`, and of the controls of all bases."""
    n = natural(z, d)
    total = 0.0
    for b in range(d.bases):
        total += d.right[b] * math.log(n.a[b] + SMALLEST)
        total += (d.asked[b] - d.right[b]) * math.log(1 - n.a[b] + SMALLEST)
    for c in curves:
        total += curve_value(d, c, n, room)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def turn(z, block, curves, d, room):
    """Move the entries `block` of `z`, which touch the likelihood of `curves` alone."""
    level = likelihood(z, d, curves, room) + math.log(1 - np.random.random())
    here, there = z[block], np.random.normal(0, 1, len(block))
    angle = np.random.uniform(0, 2 * math.pi)
    low, high = angle - 2 * math.pi, angle
    while True:
        for n in range(len(block)):
            z[block[n]] = here[n] * math.cos(angle) + there[n] * math.sin(angle)
        if likelihood(z, d, curves, room) > level:
            return
        low, high = (angle, high) if angle < 0 else (low, angle)
        angle = np.random.uniform(low, high)


@njit(cache=True, nogil=True, error_model="numpy")
def shift(z, mean, scale, each, width):
    """Move a mean (times `scale`) and what departs from it (times `width`) against each other."""
    ratio = scale / width
    precision = 1 + len(each) * ratio * ratio
    pull = -z[mean]
    for at in each:
        pull += ratio * z[at]
    by = pull / precision + np.random.normal(0, 1) / math.sqrt(precision)
    z[mean] += by
    for at in each:
        z[at] -= ratio * by


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(z, d, room):
    """Every unknown once."""
    b, t, p, c = d.bases, d.tasks, d.policies, len(d.base)
    base, task = 10, 10 + 3 * b
    policy, curve = task + 2 * t, task + 2 * t + 3 * p
    every = np.arange(c)
    for n in range(c):
        turn(z, np.array([curve + n, curve + c + n, curve + 2 * c + n]), every[n : n + 1], d, room)
    for n in range(b):
        turn(z, np.array([base + n, base + b + n, base + 2 * b + n]), every[d.base == n], d, room)
    for n in range(t):
        turn(z, np.array([task + n, task + t + n]), every[d.task == n], d, room)
    for n in range(p):
        of = every[d.policy == n]
        turn(z, np.array([policy + n, policy + p + n, policy + 2 * p + n]), of, d, room)
        shift(z, policy + n, 1.5, curve + of, spread(0.4, z[7]))
        shift(z, policy + p + n, 0.8, curve + c + of, spread(0.3, z[8]))
        shift(z, policy + 2 * p + n, 1.5, curve + 2 * c + of, spread(0.6, z[9]))
    for n in range(10):
        turn(z, np.array([n]), every, d, room)
    shift(z, 1, 1.0, base + b + np.arange(b), spread(0.3, z[2]))
    shift(z, 3, 1.0, base + 2 * b + np.arange(b), spread(0.3, z[4]))


@njit(cache=True, nogil=True, error_model="numpy")
def chain(seed, tune, draws, thin, d):
    """Vectors of unknowns, shape (draws, size); `thin` sweeps a draw, from a draw of the prior."""
    np.random.seed(seed)
    z = np.random.normal(0, 1, 10 + 3 * d.bases + 2 * d.tasks + 3 * d.policies + 3 * len(d.base))
    room = new_room(d.octaves.shape[1])
    found = np.empty((draws, len(z)))
    for n in range(-tune, draws * thin):
        sweep(z, d, room)
        if n >= 0 and n % thin == thin - 1:
            found[n // thin] = z
    return found
