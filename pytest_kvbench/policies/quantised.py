"""Caches of transformers that keep keys and values in fewer bits: fixed ratios, no press.

Groups of 64 values share a scale and a zero point, both in the model's own type. The prompt is
packed at once; new tokens stay as they are until there are `residual_length` of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.policies.params import Param
from pytest_kvbench.policies.policy import Policy

GROUP = 64
_BITS = {"quanto": (4, 2), "hqq": (8, 4, 2)}
_PACKAGE = {"quanto": "optimum-quanto (and g++ and ninja, on a CPU)", "hqq": "hqq"}


def _policy(backend: str, bits: int) -> Policy:
    return Policy(
        f"{backend}_int{bits}",
        "",
        "2402.02750" if backend == "quanto" else "",
        f"Keys and values in {bits} bits, by {backend}; scales included.",
        {"residual_length": Param(128, low=1)},
        serving="quantised",
        dial="",
        trained=f"the package {_PACKAGE[backend]}: pip install {_PACKAGE[backend].split(' ')[0]}",
        fixed={own: (bits + 2 * own / GROUP) / own for own in (16, 32)},
    )


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {p.name: p for p in (_policy(name, n) for name, some in _BITS.items() for n in some)}
)
