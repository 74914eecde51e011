"""How servers differ, one kind a file: what they can be told, tell and prove, how they start."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.engines.kinds import llamacpp, ollama, sglang, vllm
from pytest_kvbench.engines.kinds.base import Kind, Startable
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.policies.kv_types import FP8, GGML

__all__ = ["KINDS", "Kind", "Startable", "kind_of"]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "local": Kind(is_embedded=True, sends_key=False),
        "llamacpp": llamacpp.KIND,
        "vllm": vllm.KIND,
        "sglang": sglang.KIND,
        "ollama": ollama.KIND,
        "openai": Kind(bits={**GGML, **FP8}, by_address=True),
    }
)
"""By engine name."""


def kind_of(settings: EngineSettings) -> Kind:
    """The kind of server that an experiment's `engine` section names."""
    return KINDS[settings.name]
