"""How OpenAI-compatible servers differ, one kind a file: what they tell, prove and can be told."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.engines.kinds import llamacpp, ollama, sglang, vllm
from pytest_kvbench.engines.kinds.base import Kind, Startable
from pytest_kvbench.engines.probe import Probe

__all__ = ["KINDS", "Kind", "Startable"]


def _tell(_probe: Probe) -> dict[str, str]:
    return {}  # hosted servers say next to nothing of themselves


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "llamacpp": llamacpp.KIND,
        "vllm": vllm.KIND,
        "sglang": sglang.KIND,
        "ollama": ollama.KIND,
        "openai": Kind(tell=_tell, by_address=True),
    }
)
"""By engine name."""
