"""How servers differ, one kind a file: levers, facts, start, proof, fingerprint, body, reader."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.engines.kinds import llamacpp, local, ollama, sglang, vllm
from pytest_kvbench.engines.kinds.base import Kind, Startable
from pytest_kvbench.engines.kinds.own import check_name, kind_of_class
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.policies.kv_types import FP8, GGML
from pytest_kvbench.records import FULL_CACHE

__all__ = [
    "KINDS",
    "Kind",
    "Startable",
    "arms_per_request",
    "check_name",
    "first_lever",
    "kind_of",
]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "local": local.KIND,
        "llamacpp": llamacpp.KIND,
        "vllm": vllm.KIND,
        "sglang": sglang.KIND,
        "ollama": ollama.KIND,
        "openai": Kind(bits={**GGML, **FP8}, by_address=True, measures=("prefix",)),
    }
)
"""By engine name; every other is a user's."""


def kind_of(settings: EngineSettings) -> Kind:
    """The kind of server that an experiment's `engine` section names."""
    return KINDS.get(settings.name) or kind_of_class()


def first_lever(settings: EngineSettings) -> str:
    """A policy that these servers have; the full cache's where none is known."""
    policies = [name.partition("@")[0] for name in settings.endpoints if name != FULL_CACHE]
    if policies:
        return policies[0]
    kind = kind_of(settings)
    if settings.base_url is not None and not kind.one_server:
        return FULL_CACHE
    return kind.first_lever or FULL_CACHE


def arms_per_request(settings: EngineSettings) -> int:
    """Arms of one example that one request asks, from one prefill; 1: each is asked alone."""
    return kind_of(settings).arms_per_request if settings.sweep else 1
