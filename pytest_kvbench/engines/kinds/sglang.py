"""SGLang: KV type by `--kv-cache-dtype`, shown by `/get_server_info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvbench.engines.kinds.base import Kind
from pytest_kvbench.policies import kv_types

if TYPE_CHECKING:
    from pytest_kvbench.engines.probe import Probe

_TOLD = ("model_path", "revision", "dtype", "quantization", "kv_cache_dtype", "chat_template")


def _tell(probe: Probe) -> dict[str, str]:
    info = probe.json("/get_server_info")
    told = {name: str(info[name]) for name in _TOLD if info.get(name) is not None}
    return {"server": f"sglang {info.get('version')}", **told}


def _size(probe: Probe) -> float | None:
    """Bits a value of the cache's type, as the running server says."""
    return kv_types.bits(
        str(probe.json("/get_server_info").get("kv_cache_dtype")), probe.settings.dtype
    )


KIND = Kind(
    bits={name: kv_types.FP8[name] for name in ("fp8_e4m3", "fp8_e5m2")},
    tell=_tell,
    extras={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    size=_size,
)
