"""Models of the families that people use, tiny and random: the server's answers are their own."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import kvpress
import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from pytest_kvbench.errors import UsageError
from pytest_kvbench.policies.table import get_policy
from pytest_kvbench.server import model as model_module
from pytest_kvbench.server.engine import ArmSpec, Engine
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.shape import Shape
from pytest_kvbench.server.slots import Slots
from tests.model.directly import of_kvpress
from tests.model.test_server_devices import NONE, SAMPLINGS, run
from tests.model.test_slots import ids_of, snapkv
from tests.support.tiny_model import CONTEXT, SIZES, longrope, tiny_model, tiny_of

pytestmark = pytest.mark.model

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama 3": LlamaConfig(**SIZES, rope_parameters=_LLAMA3),
    "llama, tied, eight heads of one": LlamaConfig(
        **{**SIZES, "num_attention_heads": 8, "num_key_value_heads": 1}, tie_word_embeddings=True
    ),
    "qwen 2.5": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen 2.5, as its files say it": Qwen2Config(
        **SIZES, use_sliding_window=False, sliding_window=100, max_window_layers=2
    ),
    "qwen 3, heads wider than the model": Qwen3Config(**{**SIZES, "head_dim": 16}),
    "mistral 0.3": MistralConfig(**SIZES, sliding_window=None),
    "mistral 0.1": MistralConfig(**SIZES, sliding_window=4096),
    "phi 4": Phi3Config(**SIZES, **_IDS, sliding_window=None),
    "phi 3, heads of 24": Phi3Config(
        **{**SIZES, "hidden_size": 96, "num_key_value_heads": 4, "head_dim": 24}, **_IDS
    ),
    "phi 4 mini, part of a head turned": Phi3Config(
        **{**SIZES, "head_dim": 8}, **_IDS, sliding_window=262144, partial_rotary_factor=0.75
    ),
}


def own_answer(model: LocalModel, ids: list[int], tokens: int) -> str:
    """What transformers' own `generate` says, with its own attention."""
    config = model.network.config
    ours, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        made: Any = model.network.generate(  # type: ignore[operator]
            torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, eos_token_id=None
        )
    finally:
        config._attn_implementation = ours
    return model.decode(made[0, len(ids) :].tolist())


def knorm(*budgets: float) -> list[ArmSpec]:
    """Where a part of each head is turned, kvpress's snapkv itself fails: it turns all of it."""
    return [ArmSpec(get_policy("knorm"), {}, budget) for budget in budgets]


def presses(family: str) -> list[Any]:
    """kvpress's own of what is asked for."""
    if "part of a head" in family:
        return [kvpress.KnormPress(0.5), kvpress.KnormPress(0.7)]
    return [kvpress.SnapKVPress(0.5, window_size=8), kvpress.SnapKVPress(0.7, window_size=8)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_answers_as_by_itself(family: str) -> None:
    model = tiny_of(FAMILIES[family])
    right = own_answer(model, ids_of(0), 6)
    ways = [
        Engine(model, PrefillCache(0)),
        Engine(model, PrefillCache(0), Slots(model, Shape(4, CONTEXT, 64))),
    ]
    specs = [NONE, *(knorm if "part of a head" in family else snapkv)(0.5, 0.3)]
    found = [run(way, ids_of(0), specs, SAMPLINGS["greedy"]) for way in ways]
    assert found[0][0][0] == right
    for (text, _), press in zip(found[0][1:], presses(family), strict=True):
        assert text == of_kvpress(model, press, ids_of(0), 6)
    assert found[1] == found[0]
    assert [round(report.achieved, 1) for _, report in found[0]] == [1.0, 0.5, 0.3]


SERVED = {
    "whole": (LlamaConfig(**SIZES), CONTEXT),
    "no window": (Qwen2Config(**SIZES), CONTEXT),
    "a window that is longer": (Phi3Config(**SIZES, **_IDS, sliding_window=4096), CONTEXT),
    "up to where it would slide": (MistralConfig(**SIZES, sliding_window=100), 100),
}


@pytest.mark.parametrize("kind", SERVED)
def test_a_model_is_served_as_far_as_nothing_slides(kind: str) -> None:
    config, tokens = SERVED[kind]
    assert model_module.context_of(config) == tokens


def test_a_family_that_turns_by_its_longest_row_answers_as_by_itself() -> None:
    """Phi 3 and 4 with long contexts: on both sides of where their angles change."""
    rope = longrope(4)
    model = tiny_of(
        Phi3Config(**SIZES, **_IDS, rope_parameters=rope, original_max_position_embeddings=100)
    )
    assert model.turns_by_length
    for tokens in (60, 150):
        found = run(Engine(model, PrefillCache(0)), ids_of(0, tokens), [NONE], SAMPLINGS["greedy"])
        assert found[0][0] == own_answer(model, ids_of(0, tokens), 6)


@pytest.mark.parametrize("config", [Gemma3TextConfig, Gemma3Config, GptOssConfig])
def test_a_model_of_which_some_layers_slide_is_refused_before_it_is_loaded(
    config: type[PreTrainedConfig], tmp_path: Path
) -> None:
    layers = {"num_hidden_layers": 6}
    config(**({"text_config": layers} if config is Gemma3Config else layers)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UsageError) as error:
        model_module.load(tmp_path, "float32", "cpu", 1)
    assert "some of its layers attend to the last" in error.value.what


def test_a_loaded_model_is_in_the_type_asked_for(tmp_path: Path) -> None:
    made = tiny_model()
    made.network.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    loaded = model_module.load(tmp_path, "bfloat16", "cpu", 1)
    assert {weight.dtype for weight in loaded.network.parameters()} == {torch.bfloat16}
    assert loaded.device == torch.device("cpu")
    assert loaded.context_length == CONTEXT


_LOADING = """
import resource, sys
from pathlib import Path
from pytest_kvbench.server import model
model.load(Path(sys.argv[2]), "bfloat16", "cpu", 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.load(Path(sys.argv[1]), "bfloat16", "cpu", 1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is in other units")
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_loading_takes_little_more_than_the_file(stored: torch.dtype, tmp_path: Path) -> None:
    """A detour over float32 would take twice or three times as much."""
    assert resource.getrusage  # what the other process measures itself by
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12}
    for name, config in (("m", {**SIZES, **large}), ("tiny", SIZES)):
        model = tiny_of(LlamaConfig(**config), dtype=stored)
        model.network.save_pretrained(tmp_path / name)
        model.tokenizer.save_pretrained(tmp_path / name)
    size = (tmp_path / "m" / "model.safetensors").stat().st_size
    assert size > 3e8
    done = subprocess.run(
        [sys.executable, "-c", _LOADING, tmp_path / "m", tmp_path / "tiny"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert int(done.stdout) <= 1.2 * size
