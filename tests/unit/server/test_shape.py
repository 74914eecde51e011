"""The arithmetic of slots and memory, and what a server will be by it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.engines.kinds.local import KIND
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.server import choice, weights
from pytest_kvbench.server import shape as shape_module
from pytest_kvbench.server.choice import Card
from pytest_kvbench.server.shape import (
    GB,
    Shape,
    Sizes,
    fitting,
    memory,
    parsed,
    refuse,
    sizes_of,
)

H100 = 81_559 * 2**20
CONFIG = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
LLAMA_8B = Sizes(
    weights=16_060_522_496,
    kv=2 * 32 * 8 * 128 * 2,
    hidden=32 * 4096 * 2,
    active=150_000,
    logits=128_256 * 6,
    context=131_072,
)


def folder_of(path: Path, **config: object) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (path / "tokenizer.json").write_text("{}")
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [1000, 3], "data_offsets": [0, 12000]},
            "b": {"dtype": "F32", "shape": [7], "data_offsets": [12000, 12028]},
        }
    ).encode()
    (path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def test_a_models_sizes_are_read_without_its_weights(tmp_path: Path) -> None:
    found = sizes_of(folder_of(tmp_path), "bfloat16")
    assert found.weights == 3007 * 2  # as served, whatever it is stored in
    assert (found.kv, found.hidden, found.logits) == (131_072, 262_144, LLAMA_8B.logits)
    assert found.context == LLAMA_8B.context
    assert sizes_of(folder_of(tmp_path, head_dim=64), "float32").kv == 131_072


def test_prompts_of_32k_with_eight_arms_fit_80_gb_of_an_8b_model() -> None:
    chosen = fitting(LLAMA_8B, H100)
    assert chosen.slots == 9  # and the control
    assert chosen.longest >= 32_768 + 64
    assert refuse(Shape(8, 33_024), LLAMA_8B, H100).left > 0


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError) as error:
        refuse(Shape(8, 131_328), LLAMA_8B, H100)
    needed = 8 * 131_328 * 131_072 / GB
    assert f"slots {needed:.1f} GB" in error.value.what
    assert "weights 16.1 GB" in error.value.what
    assert "0.9 of 85.5 GB" in error.value.what
    with pytest.raises(UsageError, match=r"weights 16\.1 GB"):
        fitting(LLAMA_8B, 16 * GB)


@given(
    st.integers(10**9, 2 * 10**11),
    st.floats(0.1, 1.0),
    st.integers(10**6, 10**11),
    st.integers(1_000, 10**6),
    st.integers(64, 10**6),
)
def test_the_shape_for_a_card_fits_it_and_no_longer_one_would(
    total: int, share: float, weighs: int, kv: int, context: int
) -> None:
    sizes = replace(LLAMA_8B, weights=weighs, kv=kv, context=context)
    try:
        shape = fitting(sizes, total, share)
    except UsageError:
        assert memory(Shape(9, 256), sizes, total, share).left < 0
        return
    assert memory(shape, sizes, total, share).left >= 0
    longer = replace(shape, capacity=shape.capacity + 256)
    assert shape.longest >= context or memory(longer, sizes, total, share).left < 0


@pytest.mark.parametrize("text", ["8x16384/512", "8x16384"])
def test_a_shape_is_read_as_it_is_written(text: str) -> None:
    assert str(parsed(text)) in (text, text + "/2048")


@pytest.mark.parametrize(
    "text", ["", "8", "0x512", "8x8", "8x512/1", "8 x 512", "-1x512", "8x512/"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no shape"):
        parsed(text)


def test_a_server_without_a_gpu_is_what_it_was(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    chosen = choice.choose(folder, device="cpu")
    assert (chosen.dtype, chosen.shape, chosen.memory) == ("float32", None, None)
    assert chosen.fingerprint(folder) == weights.fingerprint_parts(folder, "float32", "cpu")


@pytest.fixture
def on_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cards", lambda: (Card("NVIDIA H100", H100),))
    monkeypatch.setattr(weights, "default_device", lambda: "cuda")


@pytest.mark.usefixtures("on_h100")
def test_on_a_gpu_card_type_and_slots_are_part_of_what_a_server_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)
    seen = [
        choice.choose(folder).fingerprint(folder),
        choice.choose(folder, slots="8x4096").fingerprint(folder),
        choice.choose(folder, slots="8x4096/512").fingerprint(folder),
        choice.choose(folder, slots="none").fingerprint(folder),
        choice.choose(folder, dtype="float16").fingerprint(folder),
        choice.choose(folder, share=0.5).fingerprint(folder),
    ]
    assert seen[0] == {**seen[0], "dtype": "bfloat16", "device": "cuda", "card": "NVIDIA H100"}
    assert seen[1]["slots"] == "8x4096/2048"
    monkeypatch.setattr(choice, "cards", lambda: (Card("NVIDIA A100", H100),))
    seen.append(choice.choose(folder).fingerprint(folder))
    assert len({json.dumps(one, sort_keys=True) for one in seen}) == len(seen)


@pytest.mark.usefixtures("on_h100")
def test_who_starts_a_server_works_out_the_same(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m")
    settings = EngineSettings(model=str(folder), slots="4x4096")
    assert KIND.start is not None
    facts = KIND.start.facts(settings, ("auto", "auto"))
    command = KIND.start.command(settings, ("auto", "auto"), 1, tmp_path / "a", None)
    options = dict(zip(command[3::2], command[4::2], strict=False))
    server = choice.choose(folder, options["--dtype"], slots=options["--slots"])
    assert server.fingerprint(folder) == facts
    assert facts["slots"] == "4x4096/2048"


@pytest.mark.usefixtures("on_h100")
def test_rows_that_change_each_other_by_their_length_get_no_slots(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, rope_scaling={"type": "longrope"})
    assert choice.choose(folder).shape is None
    with pytest.raises(UsageError, match="longest row"):
        choice.choose(folder, slots="8x4096")


def test_a_gpu_that_is_not_there_is_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "cards", lambda: ())
    monkeypatch.setattr(weights, "default_device", lambda: "cpu")
    with pytest.raises(UsageError, match="sees no GPU"):
        choice.choose(folder_of(tmp_path), device="cuda")


def test_without_a_word_of_the_cards_memory_slots_must_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "cards", lambda: ())
    monkeypatch.setattr(weights, "default_device", lambda: "cuda")
    folder = folder_of(tmp_path)
    with pytest.raises(UsageError, match="nvidia-smi"):
        choice.choose(folder, device="cuda")
    assert choice.choose(folder, device="cuda", slots="8x4096").memory is None


def two(monkeypatch: pytest.MonkeyPatch, *nbytes: int) -> None:
    monkeypatch.setattr(
        choice, "cards", lambda: tuple(Card(f"GPU {n}", size) for n, size in enumerate(nbytes))
    )
    monkeypatch.setattr(weights, "default_device", lambda: "cuda")


def test_slots_are_as_large_as_the_cards_that_a_model_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that one card holds is on one, however many there are: its memory alone counts."""
    folder = folder_of(tmp_path)
    two(monkeypatch, 20 * GB)
    one = choice.choose(folder)
    two(monkeypatch, 20 * GB, 20 * GB)
    assert choice.choose(folder) == one
    assert one.spread is False
    assert (one.card, choice.choose(folder, slots="none").card) == ("GPU 0", "GPU 0")


def test_a_model_that_one_card_does_not_hold_is_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)
    monkeypatch.setattr(shape_module, "weights_of", lambda folder, dtype: 15 * GB)
    two(monkeypatch, 20 * GB, 20 * GB)
    chosen = choice.choose(folder)
    assert (chosen.spread, chosen.card) == (True, "GPU 0 + GPU 1")
    assert chosen.shape == fitting(sizes_of(folder, "bfloat16"), 40 * GB)
    assert choice.choose(folder, slots="none").spread is True


@pytest.mark.usefixtures("on_h100")
def test_a_model_that_sees_has_its_sizes_where_its_texts_are(tmp_path: Path) -> None:
    nested = folder_of(tmp_path / "nested")
    (nested / "config.json").write_text(json.dumps({"model_type": "mm", "text_config": CONFIG}))
    assert sizes_of(nested, "bfloat16") == sizes_of(folder_of(tmp_path / "flat"), "bfloat16")


@pytest.mark.usefixtures("on_h100")
def test_a_model_that_does_not_say_its_sizes_is_left_to_who_loads_it(tmp_path: Path) -> None:
    """As Gemma 3, whose configuration names what differs from defaults: loading refuses it."""
    folder = folder_of(tmp_path)
    (folder / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 2560}}))
    assert choice.choose(folder).shape is None
    with pytest.raises(UsageError, match="num_hidden_layers"):
        choice.choose(folder, slots="8x4096")
