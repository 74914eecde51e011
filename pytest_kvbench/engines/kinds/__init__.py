"""How OpenAI-compatible servers differ, one kind a file: what they tell, prove and can be told."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.engines.kinds import llamacpp, ollama, sglang, vllm
from pytest_kvbench.engines.kinds.base import Kind, Startable
from pytest_kvbench.engines.probe import Probe

__all__ = ["KINDS", "Kind", "Startable"]


def _tell(probe: Probe) -> dict[str, str]:
    # Hosted servers say next to nothing of themselves; at least another address is another server.
    return {"base_url": probe.base_url}


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "llamacpp": llamacpp.KIND,
        "vllm": vllm.KIND,
        "sglang": sglang.KIND,
        "ollama": ollama.KIND,
        "openai": Kind(tell=_tell),
    }
)
"""By engine name."""
