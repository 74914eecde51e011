"""The log likelihood and its gradient, compiled (numba): a sampler asks for it a million times.

Right-or-wrong answers are in `outcomes`. Graded scores have the mean loss of a curve, normal on
the scale of artanh.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pytest_kvbench.posterior.outcomes import (
    SMALLEST,
    begin,
    emissions,
    new_room,
    rows_gradient,
    rows_likelihood,
    rows_value,
)


class Natural(NamedTuple):
    """The unknowns of one draw, by base (a, f1, f0), task (h) and curve (mu, s, A)."""

    rho: float
    a: Any
    f1: Any
    f0: Any
    h: Any
    mu: Any
    s: Any
    depth: Any


class Parts(NamedTuple):
    """A vector's entries by what they are; views, so that a gradient's can be written."""

    each: Any
    accuracy: Any
    f1: Any
    f0: Any
    luck: Any
    task: Any
    where: Any
    slope: Any
    deep: Any
    where_each: Any
    slope_each: Any
    deep_each: Any


@njit(cache=True, nogil=True, error_model="numpy")
def parts(z, d):
    """`z` by name."""
    b, t, p, c = d.bases, d.tasks, d.policies, len(d.base)
    n = 10
    e = n + 3 * b
    q = e + 2 * t
    r = q + 3 * p
    return Parts(
        z[:n],
        z[n : n + b],
        z[n + b : n + 2 * b],
        z[n + 2 * b : e],
        z[e : e + t],
        z[e + t : q],
        z[q : q + p],
        z[q + p : q + 2 * p],
        z[q + 2 * p : r],
        z[r : r + c],
        z[r + c : r + 2 * c],
        z[r + 2 * c :],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def spread(middle, z):
    """A standard deviation between groups: log-normal."""
    return middle * math.exp(0.6 * z)


@njit(cache=True, nogil=True, error_model="numpy")
def logistic(x):
    """1 / (1 + exp(-x)), for numbers."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    e = math.exp(x)
    return e / (1 + e)


@njit(cache=True, nogil=True, error_model="numpy")
def softplus(x):
    """log(1 + exp(x)), for numbers."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


@njit(cache=True, nogil=True, error_model="numpy")
def natural(z, d):
    """The unknowns that `z` stands for."""
    v = parts(z, d)
    g = v.each
    curves = len(d.base)
    a, f1, f0 = np.empty(d.bases), np.empty(d.bases), np.empty(d.bases)
    for b in range(d.bases):
        a[b] = logistic(1 + 1.5 * v.accuracy[b])
        f1[b] = logistic(-3.5 + g[1] + spread(0.3, g[2]) * v.f1[b])
        f0[b] = logistic(-2.5 + g[3] + spread(0.3, g[4]) * v.f0[b])
    h = np.empty(d.tasks)
    for t in range(d.tasks):
        h[t] = logistic(-3 + 1.25 * v.luck[t])
    mu, s, depth = np.empty(curves), np.empty(curves), np.empty(curves)
    by_task = spread(0.3, g[6]) if d.tasks > 1 else 0.0
    by_curve = spread(0.4, g[7]), spread(0.3, g[8]), spread(0.6, g[9])
    for c in range(curves):
        p = d.policy[c]
        mu[c] = 2 + 1.5 * v.where[p] + by_task * v.task[d.task[c]]
        mu[c] += 0.5 * g[5] * d.length[c] + by_curve[0] * v.where_each[c]
        s[c] = 0.03 + math.exp(-1.7 + 0.8 * v.slope[p] + by_curve[1] * v.slope_each[c])
        depth[c] = logistic(1 + 1.5 * v.deep[p] + by_curve[2] * v.deep_each[c])
    return Natural(logistic(1.7 * g[0]), a, f1, f0, h, mu, s, depth)


@njit(cache=True, nogil=True, error_model="numpy")
def shape(x, mu, s):
    """w / A at an octave, and its derivatives by mu and by s."""
    u, start = (x - mu) / s, mu / s
    left = math.exp(softplus(-start) - softplus(u))  # 1 - w / A
    here, at_one = logistic(u), logistic(-start)
    return 1 - left, -left * (here - at_one) / s, -left * (here * u + at_one * start) / s


@njit(cache=True, nogil=True, error_model="numpy")
def graded_likelihood(d, m, w, rates, g_w, g):
    """Log likelihood of a graded curve's mean losses.

    Args:
        rates: a, f1, f0 and h.
        g_w, g: its gradient by w, and by the logits of `rates`, is added.
    """
    k = len(w)
    a, f1, f0, h = rates
    background = a * f1 - (1 - a) * f0
    off, slope = np.empty(k), np.empty(k)
    for j in range(k):
        expected = min(max(w[j] * (a - h) + (1 - w[j]) * background, -0.99), 0.99)
        off[j] = d.loss[m, j] - math.atanh(expected)
        slope[j] = 1 / (1 - expected * expected) if abs(expected) < 0.99 else 0.0
    white = d.whitener[m] @ off
    back = d.whitener[m].T @ white
    for j in range(k):
        by_loss, whole = back[j] * slope[j], 1 - w[j]
        g_w[j] += by_loss * (a - h - background)
        g[0] += by_loss * (w[j] + whole * (f1 + f0)) * a * (1 - a)
        g[1] += by_loss * whole * a * f1 * (1 - f1)
        g[2] -= by_loss * whole * (1 - a) * f0 * (1 - f0)
        g[3] -= by_loss * w[j] * h * (1 - h)
    return -0.5 * (white @ white)


@njit(cache=True, nogil=True, error_model="numpy")
def curve_value(d, c, n, room):
    """Log likelihood of one curve. `room`: scratch, of `new_room`."""
    b, h = d.base[c], n.h[d.task[c]]
    w, g_w, g = room.rungs[0], room.rungs[3], room.gradient
    for j in range(len(w)):
        w[j] = n.depth[c] * shape(d.octaves[c, j], n.mu[c], n.s[c])[0]
    total = 0.0
    if d.first[c] < d.first[c + 1]:
        emissions(n.f1[b], n.f0[b], h, room.says, room.slopes)
        begin(w, room)
        total += rows_value(d, c, n.rho, room)
    if d.graded[c] >= 0:
        rates = (n.a[b], n.f1[b], n.f0[b], h)
        total += graded_likelihood(d, d.graded[c], w, rates, g_w, g)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def curve_likelihood(d, c, n, room, by_base, by_task, by_curve):
    """The same; adds its gradient.

    Args:
        by_base: by logit a, f1, f0, shape (b, 3).
        by_task: by logit h, shape (t,).
        by_curve: by mu, log(s - .03), logit A, and logit rho, shape (c, 4).
    """
    b, t = d.base[c], d.task[c]
    mu, s, depth, h = n.mu[c], n.s[c], n.depth[c], n.h[t]
    w, by_mu, by_s, g_w = room.rungs
    g, total = room.gradient, 0.0
    g_w[:] = 0
    for j in range(len(w)):
        share, by_mu[j], by_s[j] = shape(d.octaves[c, j], mu, s)
        w[j] = depth * share
    if d.first[c] < d.first[c + 1]:
        g[:] = 0
        emissions(n.f1[b], n.f0[b], h, room.says, room.slopes)
        begin(w, room)
        likely, by_rho = rows_likelihood(d, c, n.rho, room)
        rows_gradient(w, room, g_w, g)
        total += likely
        by_curve[c, 3] += by_rho
        by_base[b, 1] += g[1]
        by_base[b, 2] += g[0]
        by_task[t] += g[2]
    if d.graded[c] >= 0:
        g[:] = 0
        rates = (n.a[b], n.f1[b], n.f0[b], h)
        total += graded_likelihood(d, d.graded[c], w, rates, g_w, g)
        by_base[b] += g[:3]
        by_task[t] += g[3]
    for j in range(len(w)):
        by_curve[c, 0] += g_w[j] * depth * by_mu[j]
        by_curve[c, 1] += g_w[j] * depth * by_s[j] * (s - 0.03)
        by_curve[c, 2] += g_w[j] * w[j] * (1 - depth)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def log_density(z, d):
    """The log posterior density of `z`, up to a constant, and its gradient."""
    n = natural(z, d)
    curves = len(d.base)
    room = new_room(d.octaves.shape[1])
    by_base, by_task, by_curve = np.zeros((d.bases, 3)), np.zeros(d.tasks), np.zeros((curves, 4))
    total = -0.5 * (z @ z)
    for b in range(d.bases):
        a = n.a[b]
        total += d.right[b] * math.log(a + SMALLEST)
        total += (d.asked[b] - d.right[b]) * math.log(1 - a + SMALLEST)
        by_base[b, 0] = d.right[b] - d.asked[b] * a
    for c in range(curves):
        total += curve_likelihood(d, c, n, room, by_base, by_task, by_curve)
    gradient = -z
    _back(gradient, z, d, by_base, by_task, by_curve)
    return total, gradient


@njit(cache=True, nogil=True, error_model="numpy")
def _back(gradient, z, d, by_base, by_task, by_curve):
    """Add the likelihood's gradient by `z`: `natural` backwards."""
    v, out = parts(z, d), parts(gradient, d)
    g, to = v.each, out.each
    f1, f0 = spread(0.3, g[2]), spread(0.3, g[4])
    for b in range(d.bases):
        out.accuracy[b] += 1.5 * by_base[b, 0]
        to[1] += by_base[b, 1]
        to[2] += 0.6 * f1 * v.f1[b] * by_base[b, 1]
        out.f1[b] += f1 * by_base[b, 1]
        to[3] += by_base[b, 2]
        to[4] += 0.6 * f0 * v.f0[b] * by_base[b, 2]
        out.f0[b] += f0 * by_base[b, 2]
    for t in range(d.tasks):
        out.luck[t] += 1.25 * by_task[t]
    by_place = spread(0.3, g[6]) if d.tasks > 1 else 0.0
    where, slope, deep = spread(0.4, g[7]), spread(0.3, g[8]), spread(0.6, g[9])
    for c in range(len(d.base)):
        p, t = d.policy[c], d.task[c]
        by_mu, by_s, by_depth = by_curve[c, 0], by_curve[c, 1], by_curve[c, 2]
        to[0] += 1.7 * by_curve[c, 3]
        out.where[p] += 1.5 * by_mu
        out.task[t] += by_place * by_mu
        to[6] += 0.6 * by_place * v.task[t] * by_mu
        to[5] += 0.5 * d.length[c] * by_mu
        out.where_each[c] += where * by_mu
        to[7] += 0.6 * where * v.where_each[c] * by_mu
        out.slope[p] += 0.8 * by_s
        out.slope_each[c] += slope * by_s
        to[8] += 0.6 * slope * v.slope_each[c] * by_s
        out.deep[p] += 1.5 * by_depth
        out.deep_each[c] += deep * by_depth
        to[9] += 0.6 * deep * v.deep_each[c] * by_depth
