"""SGLang: KV type by `--kv-cache-dtype`, proven by the memory that `/server_info` reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvbench.engines.kinds.base import Kind
from pytest_kvbench.errors import EngineError
from pytest_kvbench.policies import kv_types
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.sound import Fields

if TYPE_CHECKING:
    from pytest_kvbench.engines.probe import Probe

_FACTS = ("model_path", "revision", "dtype", "quantization", "kv_cache_dtype", "chat_template")


def _info(probe: Probe) -> Fields:
    try:
        return probe.json("/server_info")
    except EngineError:  # until 0.5 it had another name, which newer ones call deprecated
        return probe.json("/get_server_info")


def _fingerprint(probe: Probe) -> dict[str, str]:
    info = _info(probe)
    facts = {name: str(info[name]) for name in _FACTS if info.get(name) is not None}
    return {"server": f"sglang {info.get('version')}", **facts}


def _size(probe: Probe) -> float | None:
    """GiB a token, by what its cache takes and holds: the type it names is what it was told."""
    states = sound.objects(_info(probe).get("internal_states"))
    usage = sound.fields(states[0].get("memory_usage")) if states else {}
    taken, tokens = sound.number(usage.get("kvcache")), sound.count(usage.get("token_capacity"))
    return taken / tokens if taken and tokens else None


KIND = Kind(
    first_lever="fp8_e5m2",
    bits={name: kv_types.FP8[name] for name in ("fp8_e4m3", "fp8_e5m2")},
    fingerprint=_fingerprint,
    extras={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    size=_size,
    measures=("prefix",),
)
