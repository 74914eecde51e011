"""The curve: which share of its answers a policy breaks, by budget, and what that costs.

    1 - w(x)/A = [1 - F((x - mu) / s)] / [1 - F(-mu / s)]
    L(x)       = a [(1 - w) f1 + w (1 - h)] - (1 - a) [(1 - w) f0 + w h]        (-delta)

x is log2(1 / budget) and F logistic. w is the share of answers that are broken (0 at budget 1, at
most A), mu the octave where half of A are, s how gradual. a is the control's accuracy, f1 and f0
flips that no policy causes (right to wrong, wrong to right), h the luck of a broken answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def share_broken(octaves: Floats, location: Floats, scale: Floats, depth: Floats) -> Floats:
    """w(x), by broadcasting; in [0, depth]."""
    fallen = np.logaddexp(0, (octaves - location) / scale) - np.logaddexp(0, -location / scale)
    share: Floats = depth * -np.expm1(-fallen)
    return share


def loss(broken: Floats, accuracy: Floats, lost: Floats, gained: Floats, luck: Floats) -> Floats:
    """L: the control's mean score less the treated one, where this share of answers is broken."""
    wrongly = (1 - broken) * lost + broken * (1 - luck)
    luckily = (1 - broken) * gained + broken * luck
    return accuracy * wrongly - (1 - accuracy) * luckily
