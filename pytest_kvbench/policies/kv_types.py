"""Types in which a server may store keys and values, and the bits a value takes in each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

GGML: Mapping[str, float] = MappingProxyType(
    {"q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5, "iq4_nl": 4.5}
)
"""Scales included: ggml stores blocks of 32 values in 34, 24, 22, 20 or 18 bytes."""

FP8: Mapping[str, float] = MappingProxyType({"fp8": 8.0, "fp8_e4m3": 8.0, "fp8_e5m2": 8.0})

_FULL = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "bfloat16": 16.0, "float16": 16.0, "float32": 32.0}


def bits(kv_type: str, dtype: str | None = None) -> float | None:
    """Bits a value in a cache of this type, in the server's own words; None if unknown.

    Args:
        kv_type: `auto` is the model's own type.
        dtype: that type; 16 bits where it is not float32.
    """
    auto = 32.0 if dtype == "float32" else 16.0
    return {"auto": auto, **_FULL, **GGML, **FP8}.get(kv_type)
