"""Experiments as they are declared, with what their engine has where they leave that to it.

What loads one for a plan loads it here: `experiment/` does not know the engines.
"""

from __future__ import annotations

from functools import partial

from pytest_kvbench.engines.kinds import first_lever
from pytest_kvbench.experiment import load

load_experiment = partial(load.load_experiment, lever=first_lever)
load_stages = partial(load.load_stages, lever=first_lever)
