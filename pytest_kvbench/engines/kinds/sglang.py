"""SGLang: KV type by `--kv-cache-dtype`, shown by `/get_server_info`."""

from __future__ import annotations

from pytest_kvbench.engines import levers
from pytest_kvbench.engines.kinds.base import Kind
from pytest_kvbench.engines.probe import Probe

_TOLD = ("model_path", "revision", "dtype", "quantization", "kv_cache_dtype", "chat_template")


def _tell(probe: Probe) -> dict[str, str]:
    info = probe.json("/get_server_info")
    told = {name: str(info[name]) for name in _TOLD if info.get(name) is not None}
    return {"server": f"sglang {info.get('version')}", **told}


def _size(probe: Probe) -> float | None:
    """Bits a value of the cache's type, as the running server says."""
    return levers.bits(probe.settings, str(probe.json("/get_server_info").get("kv_cache_dtype")))


KIND = Kind(
    tell=_tell,
    extras={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    size=_size,
)
