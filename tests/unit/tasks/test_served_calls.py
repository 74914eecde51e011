"""How often a server is asked for tokens: four times a prompt at most, and once for all."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pytest_kvbench.engines.base import TokenizerServer
from pytest_kvbench.errors import EngineError
from pytest_kvbench.tasks import counted, served, together
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.counted import Counted
from pytest_kvbench.tasks.haystack import load_haystack
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.pieces import spans
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
from pytest_kvbench.tasks.tokenizers import FastTokenizer
from tests.support.serving import Serving
from tests.support.shortened import shortened
from tests.support.tokenize_server import STYLES, WITH_PIECES, TokenizeServer

OTHERS = ["counting/words", "tracking/variables"]
SETUP = 2
"""Calls for a task, however many prompts: its words, and what every prompt has beside them."""


@pytest.fixture(scope="module")
def backend():
    """A small byte-level BPE, as real models have."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([" ".join(load_haystack("prose").words)], trainer)
    return made


@pytest.fixture(scope="module", params=STYLES)
def running(request, backend, tmp_path_factory):
    """A server, and a tokenizer that all examples of a test share."""
    with pytest.MonkeyPatch.context() as patch, TokenizeServer(backend, request.param) as server:
        patch.setenv("KVBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield server, connected(server)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))


def connected(server, **more):
    source = TokenizerServer("m", lambda: server.base_url, places=4)
    made = load_tokenizer("auto", server=source, **more)
    server.asked.clear()
    return made


def of_length(name, tokenizer, per_bin=5):
    spec = BinSpec(4, (per_bin,), range=(256, 2048))
    return build_task_manifest(get_task(name), spec, tokenizer, 0)


@pytest.mark.parametrize(
    ("style", "name"),
    [*((style, "niah/single") for style in STYLES), *(("vllm", name) for name in OTHERS)],
)
def test_prompts_made_to_length_take_few_calls(backend, style, name):
    with TokenizeServer(backend, style) as server:
        tokenizer = connected(server)
        made = of_length(name, tokenizer)
        texts = [get_task(name).prompt(entry.example).text for entry in made.entries]
        assert [entry.tokens for entry in made.entries] == [
            len(backend.encode(text).ids) for text in texts
        ]
        for one in made.bins:
            assert all(one.low <= entry.tokens < one.high for entry in made.of_bin(one.index))
        assert len(server.asked) <= SETUP + 4 * len(texts)
        assert max(map(server.asked.count, texts)) == 1
    if style in WITH_PIECES:
        local = of_length(name, FastTokenizer("x", backend))
        assert [e.example for e in made.entries] == [e.example for e in local.entries]
        assert len(server.asked) <= SETUP + 2 * len(texts)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(min_size=1, max_size=120) | st.text("ab c.\n湖é🙂", max_size=200),
    repeats=st.integers(1, 30),
    limit=st.integers(2, 60),
)
def test_a_prompt_is_cut_with_four_calls_at_most(backend, running, text, repeats, limit):
    text = text * repeats + "".join(reversed(text))
    server, tokenizer = running
    server.asked.clear()
    (cut,) = tokenizer.middle_cuts([text], limit)
    kept = text if cut is None else text[: cut[0]] + text[cut[1] :]
    (count,) = tokenizer.count([kept])
    assert len(server.asked) <= served.CALLS
    assert count == len(backend.encode(kept).ids)
    local = FastTokenizer("x", backend)
    if local.count([text])[0] <= limit:
        assert cut is None
    elif server.style in WITH_PIECES:
        assert cut == local.middle_cut(text, limit)
    else:
        assert count <= limit


@pytest.mark.parametrize("style", ["old vllm", "counts"])
def test_without_pieces_most_of_what_may_stay_stays(backend, style):
    text = " ".join(load_haystack("prose").words[:4000])
    with TokenizeServer(backend, style) as server:
        short = shortened(connected(server), text, 1000)
    assert 900 <= len(backend.encode(short).ids) <= 1000
    assert text.startswith(short[:100])
    assert text.endswith(short[-100:])


@pytest.mark.parametrize("style", STYLES)
def test_cards_of_many_questions_are_made_with_few_calls(backend, style, tmp_path):
    words = load_haystack("prose").words
    rows = [
        {
            "question": f"Which {i}?", "context": " ".join(words[40 * i : 40 * i + 30]),
            "choices": [" ".join(words[n : n + 5 + 5 * n]) for n in range(i, i + 4)], "answer": "A",
        }
        for i in range(8)
    ]  # fmt: skip
    path = tmp_path / "mcq.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = get_task("evidence/mcq", options={"path": str(path), "cards": True, "max_length": 150})
    with TokenizeServer(backend, style) as server:
        made = task.examples(BinSpec(1, (8,)), connected(server), 0)
        assert len(server.asked) <= 1 + 4 * len(rows)
    local = task.examples(BinSpec(1, (8,)), FastTokenizer("x", backend), 0)
    if style in WITH_PIECES:
        assert [e.meta["cards"] for e in made] == [e.meta["cards"] for e in local]


def test_calls_go_side_by_side_and_never_more_than_the_engine_has_places(backend):
    texts = [f"text {i}" for i in range(12)]
    for places, most in [(1, 1), (3, 3), (50, served.PLACES)]:
        with TokenizeServer(backend, "vllm", latency_s=0.02) as server:
            source = TokenizerServer(f"m{places}", lambda url=server.base_url: url, places=places)
            tokenizer = load_tokenizer("auto", server=source)
            assert tokenizer.count(texts) == [len(backend.encode(text).ids) for text in texts]
            assert 1 <= server.most <= most


# -- remembered ----------------------------------------------------------------------------------


@pytest.mark.parametrize("style", WITH_PIECES)
def test_what_was_counted_once_is_not_asked_again_by_another_process(backend, style):
    with TokenizeServer(backend, style) as server:
        first = of_length("niah/single", connected(server))
    with TokenizeServer(backend, style) as again:  # at another address
        assert of_length("niah/single", connected(again)) == first
        assert again.asked == []


@pytest.mark.parametrize("style", ["vllm", "old vllm"])
def test_costs_and_cuts_are_remembered_too(backend, style):
    text = " ".join(load_haystack("prose").words[:500])
    for calls in (True, False):
        with TokenizeServer(backend, style) as server:
            tokenizer = connected(server)
            tokenizer.costs([" the", " lake", "", " lies 湖"])
            tokenizer.middle_cuts([text, "short"], 100)
            assert bool(server.asked) == calls


def test_another_tokenizer_and_another_model_remember_nothing_of_it(backend):
    other = Tokenizer.from_str(backend.to_str())
    other.add_tokens(["湖水"])
    with TokenizeServer(backend, "vllm") as server:
        connected(server).count(["湖水"])
    with TokenizeServer(other, "vllm") as server:
        assert connected(server).count(["湖水"]) == [1]
    with TokenizeServer(backend, "vllm") as server:
        source = TokenizerServer("other", lambda: server.base_url)
        load_tokenizer("auto", server=source).count(["湖水"])
        assert server.asked[-1] == "湖水"


def test_bare_counts_tell_no_tokenizers_apart_and_are_not_kept(backend, tmp_path):
    with TokenizeServer(backend, "counts") as server:
        connected(server).count(["a b"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"no database at all" * 99])
def test_a_spoilt_memory_costs_calls_and_is_made_anew(tmp_path, content):
    path = tmp_path / "tokens.sqlite"
    path.write_bytes(content)
    for _ in range(2):
        first = Counted(tmp_path, "t")
        first.load([first.key("count", "a")])
        first.put(first.key("count", "a"), [3])
        first.save()
    again = Counted(tmp_path, "t")
    again.load([again.key("count", "a")])
    assert again.get(again.key("count", "a")) == [3]
    with sqlite3.connect(path) as database:
        database.execute("UPDATE counted SET value = '[-1]'")
    other = Counted(tmp_path, "t")
    other.load([other.key("count", "a")])
    assert other.get(other.key("count", "a")) is None


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    memory = Counted(tmp_path / "file", "t")
    memory.put(memory.key("count", "a"), [3])
    memory.save()
    assert memory.get(memory.key("count", "a")) == [3]


def test_many_write_at_once_and_the_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(counted, "LIMIT_BYTES", 100_000)

    def write(writer):
        memory = Counted(tmp_path, "t")
        for i in range(20):
            for n in range(50):
                memory.put(memory.key("count", f"{writer} {i} {n}"), [n] * 20)
            memory.save()
        return memory

    with ThreadPoolExecutor(4) as pool:
        memories = list(pool.map(write, range(4)))
    assert (tmp_path / "tokens.sqlite").stat().st_size < 300_000
    again = Counted(tmp_path, "t")
    last = [memories[0].key("count", f"{writer} 19 {n}") for writer in range(4) for n in range(50)]
    again.load(last)
    assert sum(again.get(key) is not None for key in last) >= 50, "the newest stay"


# -- said, and bounded ---------------------------------------------------------------------------


def test_a_long_count_says_how_far_it_is_and_takes_the_word_back(backend, monkeypatch):
    monkeypatch.setattr(together, "EVERY_S", 1e-9)
    said = []
    with TokenizeServer(backend, "vllm", latency_s=0.005) as server:
        connected(server, say=said.append).count([f"text {i}" for i in range(9)])
    assert any(line.endswith("/tokenize: 8 of 9 texts") for line in said)
    assert said[0].startswith("counting tokens at http://127.0.0.1:")
    assert said[-1] == ""


def test_a_quick_count_says_nothing(backend, monkeypatch):
    monkeypatch.setattr(together, "EVERY_S", 1000.0)
    said = []
    with TokenizeServer(backend, "vllm") as server:
        connected(server, say=said.append).count(["a", "b"])
    assert said == []


class Odd(Serving):
    """Answers every call with one reply."""

    def __init__(self, reply):
        self.reply = reply

    def routes(self):
        return [Route("/tokenize", lambda _: self.reply(), methods=["POST"])]


def endless():
    async def chunks():
        while True:
            yield b" " * 65536
            await asyncio.sleep(0)  # so that it learns that nobody listens any more

    return StreamingResponse(chunks())


@pytest.mark.parametrize(
    "reply",
    [
        endless,
        lambda: PlainTextResponse("[" * 200_000),
        lambda: PlainTextResponse("[1, 2]"),
        lambda: PlainTextResponse("null"),
        lambda: PlainTextResponse('{"tokens": "abc"}'),
        lambda: PlainTextResponse('{"tokens": [{"id": 1}]}'),
        lambda: PlainTextResponse('{"tokens": true, "count": true}'),
        lambda: PlainTextResponse('{"count": -3}'),
        lambda: PlainTextResponse("not\nhere", status_code=404),
    ],
)
def test_odd_replies_are_an_error_of_two_lines(reply, monkeypatch):
    monkeypatch.setattr(served, "REPLY_BYTES", 1_000_000)
    with Odd(reply) as server, pytest.raises(EngineError, match="no tokenizer behind") as caught:
        load_tokenizer("auto", server=TokenizerServer("m", lambda: server.base_url))
    assert len(str(caught.value).splitlines()) == 2


def test_a_refused_key_costs_one_call_and_its_reason_is_told():
    calls = []

    def refuse():
        calls.append(1)
        return PlainTextResponse("no\nsuch\nkey", status_code=401)

    with Odd(refuse) as server, pytest.raises(EngineError, match="HTTP 401: no such key") as caught:
        load_tokenizer("auto", server=TokenizerServer("m", lambda: server.base_url))
    assert len(str(caught.value).splitlines()) == 2
    assert len(calls) == 1


def test_an_error_ends_the_count_and_what_was_counted_before_is_kept(backend):
    texts = [f"text {i}" for i in range(200)]
    with TokenizeServer(backend, "vllm") as server:
        tokenizer = connected(server)
        real, lock = tokenizer.ask, threading.Lock()
        asked = []

        def ask(text):
            with lock:
                asked.append(text)
                if len(asked) > 100:
                    raise EngineError("it is gone", "see its log")
            return real(text)

        failing = served.ServedTokenizer(
            tokenizer.name, ask, tokenizer.counted, 2, tokenizer.progress
        )
        with pytest.raises(EngineError, match="it is gone"):
            failing.count(texts)
        assert len(asked) <= 102
    with TokenizeServer(backend, "vllm") as again:
        connected(again).count(texts)
        assert len(again.asked) <= 105


def test_half_a_surrogate_pair_ends_nothing(backend):
    with TokenizeServer(backend, "vllm") as server:
        tokenizer = connected(server)
        assert tokenizer.count(["a \ud800 b"]) == [len(backend.encode("a ? b").ids)]
        assert tokenizer.middle_cuts(["a \ud800 b" * 20], 4)[0] is not None


# -- pieces --------------------------------------------------------------------------------------

PIECES = {
    "bytes": lambda part: list(part),
    "byte-level": lambda part: "".join(BYTE_LEVEL[byte] for byte in part),
    "sentence piece": lambda part: (
        "".join("▁" if byte == 32 else chr(byte) if byte < 128 else "" for byte in part)
        if part.isascii()
        else [f"<0x{byte:02X}>" for byte in part]
    ),
}
BYTE_LEVEL = {
    byte: pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(chr(byte))[0][0]
    for byte in range(128)
}


@given(
    words=st.lists(st.text("ab c.\n\t", min_size=1, max_size=5), max_size=20),
    kind=st.sampled_from(sorted(PIECES)),
    blank=st.booleans(),
)
def test_pieces_of_every_kind_give_the_words_back(words, kind, blank):
    text = "".join(words)
    pieces = [PIECES[kind](word.encode()) for word in words]
    if blank and kind != "byte-level" and words:  # SentencePiece's, at the start of every text
        pieces[0] = PIECES[kind](b" " + words[0].encode())
    found = spans(pieces, text)
    assert [text[a:b] for a, b in found] == words


@given(st.text(max_size=30), st.data())
def test_a_character_cut_in_two_belongs_to_both_tokens(text, data):
    whole = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    bounds = [0, *cuts, len(whole)]
    parts = [whole[a:b] for a, b in itertools.pairwise(bounds)]
    found = spans([list(part) for part in parts], text)
    for (start, end), part in zip(found, parts, strict=True):
        assert part in text[start:end].encode()
        assert len(text[start:end].encode()) <= len(part) + 6  # at most two are cut


def test_bytes_spelt_out_and_special_tokens():
    pieces = ["▁The", "▁", "<0xE6>", "<0xB9>", "<0x96>", "!"]
    assert spans(pieces, "The 湖!") == [(0, 3), (3, 4), (4, 5), (4, 5), (4, 5), (5, 6)]
    assert spans(["<|im_start|>", "Ġa"], "<|im_start|> a") == [(0, 12), (12, 14)]


def test_pieces_of_another_text_are_refused():
    assert spans(["The", "Ġlake"], "the lake") is None
    assert spans([None, 3.5], "the lake") is None
    assert spans([[300]], "x") is None
