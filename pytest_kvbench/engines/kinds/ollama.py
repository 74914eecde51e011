"""Ollama: KV type by OLLAMA_KV_CACHE_TYPE, of which it tells nothing: always unverified.

Without flash attention it warns in its log and serves f16 (llm/server.go): a silent placebo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvbench.engines.kinds.base import Kind
from pytest_kvbench.errors import EngineError
from pytest_kvbench.policies import kv_types
from pytest_kvbench.wire import sound

if TYPE_CHECKING:
    from pytest_kvbench.engines.probe import Probe


def _fingerprint(probe: Probe) -> dict[str, str]:
    model = probe.settings.model
    models = {str(m.get("name")): m for m in sound.objects(probe.json("/api/tags").get("models"))}
    found = models.get(model) or models.get(f"{model}:latest")
    if found is None:
        raise EngineError(
            f"engine.model: {model!r} is not in the Ollama at {probe.base_url}",
            f"there: {', '.join(sorted(models))}",
        )
    return {
        "server": f"ollama {probe.json('/api/version').get('version')}",
        "weights": str(found.get("digest")),
    }


KIND = Kind(
    first_lever="q8_0",
    control="f16",
    bits={name: kv_types.GGML[name] for name in ("q8_0", "q4_0")},
    fingerprint=_fingerprint,
    by_address=True,  # the KV type is the server's, which does not say it
)
