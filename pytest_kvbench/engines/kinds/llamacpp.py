"""llama.cpp: KV types by `--cache-type-k/v`, proven by the bytes that a saved slot takes.

Neither `/props` nor `/v1/models` tells the KV types (tools/server/README.md), but a slot's cache
can be saved, and grows by so many bytes a token.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench import installed
from pytest_kvbench.divergence.named import Step
from pytest_kvbench.divergence.records import Token
from pytest_kvbench.engines import logprobs
from pytest_kvbench.engines.kinds.base import Kind, Startable, Types
from pytest_kvbench.engines.reference import Forcing
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.policies import kv_types
from pytest_kvbench.records import digest
from pytest_kvbench.server import weights
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.sound import Fields

if TYPE_CHECKING:
    from pytest_kvbench.engines.balance import Client
    from pytest_kvbench.engines.probe import Probe

_LENGTHS = (16, 80)
_FILE = "kvbench-probe.bin"


def _fingerprint(probe: Probe) -> dict[str, str]:
    props = probe.json("/props")
    facts = {
        "server": f"llama.cpp {props.get('build_info')}",
        "weights": Path(str(props.get("model_path"))).name,
        "ftype": str(props.get("model_ftype")),
        "chat_template": digest(props.get("chat_template")),
        "parallel": str(props.get("total_slots")),
    }
    size = _size(probe)
    # Three digits tell all types apart; the fourth may depend on who else used the slot.
    return facts if size is None else {**facts, "kv_bytes_per_token": f"{size:.3g}"}


def _size(probe: Probe) -> float | None:
    """Bytes a token, by the slope between two saved prompts; None without `--slot-save-path`."""
    try:
        (few, small), (many, large) = (_saved(probe, length) for length in _LENGTHS)
    except EngineError:
        return None
    if few is None or small is None or many is None or large is None:
        return None
    return (large - small) / (many - few) if many > few else None


def _saved(probe: Probe, tokens: int) -> tuple[int | None, int | None]:
    body = {"prompt": " a" * tokens, "n_predict": 1, "cache_prompt": False, "id_slot": 0}
    probe.post("/completion", body)
    saved = probe.post("/slots/0?action=save", {"filename": _FILE})
    return sound.count(saved.get("n_saved")), sound.count(saved.get("n_written"))


def _check(settings: EngineSettings) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise UsageError(
            "engine.name: llamacpp needs xllamacpp, which is not installed",
            "install it: pip install 'pytest-kvbench[llamacpp]', or name endpoints",
        )
    _gguf(settings)


def _gguf(settings: EngineSettings) -> Path:
    path = weights.resolve(settings.model).path
    if path is None or not path.is_file():
        raise UsageError(
            f"engine.model: llama.cpp needs a .gguf file, {settings.model!r} is none",
            f"valid: a .gguf file, {', '.join(weights.PACKAGED)}",
        )
    return path


def _facts(settings: EngineSettings, types: Types) -> dict[str, str]:
    return {
        "server": f"xllamacpp {installed.version('xllamacpp')}",
        "weights": weights.content_digest(_gguf(settings)),
        "type_k": types[0],
        "type_v": types[1],
        "parallel": str(settings.launch.parallel),
    }


def _command(
    settings: EngineSettings, types: Types, pid: int, address: Path, threads: int | None
) -> list[str]:
    threads = settings.threads or threads or len(os.sched_getaffinity(0))
    return [
        *(sys.executable, "-m", "pytest_kvbench.engines.llamacpp"),
        *("--model", str(_gguf(settings)), "--name", settings.model),
        *("--type-k", types[0], "--type-v", types[1], "--threads", str(threads)),
        *("--context", str(settings.launch.context), "--parallel", str(settings.launch.parallel)),
        *("--slots", str(address.parent)),
        *("--watch-pid", str(pid), "--address-file", str(address)),
    ]


async def _prompt(http: Client, fields: Fields) -> list[int]:
    """As a chat is made a prompt, and a prompt tokens, where it is answered."""
    text = fields.get("prompt")
    if text is None:
        sent = {name: fields[name] for name in _OF_CHATS if name in fields}
        text = (await http.ask("/apply-template", sent)).data.get("prompt")
    body = {"content": text, "add_special": True, "parse_special": True}
    return logprobs.ids_of((await http.ask("/tokenize", body)).data)


_OF_CHATS = ("messages", "chat_template_kwargs", "tools", "reasoning_format")


async def _steps(
    http: Client, prompt: Sequence[int], reply: Sequence[Token], _fields: Fields
) -> list[Step]:
    """A request a position, each a token more: to the bit what generating these would give."""
    found = []
    for at, token in enumerate(reply):
        body = {
            "prompt": [*prompt, *reply[:at]],
            "n_predict": 1,
            "temperature": 0,
            "n_probs": logprobs.K,
            "cache_prompt": at > 0,  # its own prefill, whatever was asked before
        }
        found.append(logprobs.of_next((await http.ask("/completion", body)).data, token))
    return found


KIND = Kind(
    first_lever="q8_0",
    control="f16",
    bits=kv_types.GGML,
    params=("type_v",),
    fingerprint=_fingerprint,
    # A prompt's own prefill, whatever was asked before; and no sampler that we did not name.
    extras={"cache_prompt": False, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    size=_size,
    in_bytes=True,
    forcing=Forcing(_prompt, _steps),
    measures=("same_top", "overlap", "prefix"),
    has_slots=True,
    start=Startable(_check, _facts, _command),
)
