from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.metric import METRICS
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.haystack import ends_sentence, hide, load_haystack
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate
from tests.support.names import task_names

TOKENIZER = Approximate()
NAMES = ["counting/words", "niah/multikey", "niah/multiquery", "niah/multivalue", "niah/single",
         "reasoning/arithmetic", "tracking/variables"]  # fmt: skip


def made(name, spec=None, seed=0, **options):
    task = get_task(name, options=options)
    return task, build_task_manifest(
        task, spec or BinSpec(3, (4,), range=(256, 1500)), TOKENIZER, seed
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_bin_is_filled_with_prompts_of_its_length(name):
    task, manifest = made(name)
    assert task.name == name
    for current in manifest.bins:
        entries = manifest.of_bin(current.index)
        assert len(entries) == 4
        assert all(current.low <= e.tokens < current.high for e in entries)
        assert len({e.tokens for e in entries}) > 1, "lengths are spread over the bin"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NAMES), st.integers(230, 900), st.integers(40, 900), st.integers(0, 99))
def test_any_length_and_seed(name, low, width, seed):
    _, manifest = made(name, BinSpec(1, (2,), range=(low, low + width)), seed)
    assert all(low <= e.tokens < low + width for e in manifest.entries)
    assert len(manifest.entries) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_reply_scores_one_and_an_empty_one_zero(name):
    task, manifest = made(name)
    for e in manifest.entries:
        measure = METRICS[task.metric].score
        assert measure(", ".join(e.example.answers), e.example.answers, e.example.meta) == 1.0
        assert measure("", e.example.answers, e.example.meta) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_prompt_parts(name):
    task, manifest = made(name)
    for e in manifest.entries:
        prompt = task.prompt(e.example)
        assert prompt.head.endswith(e.example.context)
        assert prompt.tail.lstrip().startswith(e.example.question)
        assert e.example.context not in prompt.tail
        assert 1 <= prompt.max_tokens <= (400 if name.startswith("reasoning") else 48)


@pytest.mark.parametrize("name", NAMES)
def test_seed_decides_and_every_example_has_its_own_text(name):
    (_, one), (_, again), (_, other) = made(name), made(name), made(name, seed=1)
    assert one == again
    assert not {e.example.example_id for e in one.entries} & {
        e.example.example_id for e in other.entries
    }
    assert len({e.example.cluster for e in one.entries}) == len(one.entries)


@pytest.mark.parametrize("kind", ["single", "multikey", "multivalue", "multiquery"])
@pytest.mark.parametrize("haystack", ["prose", "noise"])
def test_needles(kind, haystack):
    _, manifest = made(f"niah/{kind}", haystack=haystack)
    expected = {"single": (1, 1), "multikey": (4, 1), "multivalue": (4, 4), "multiquery": (4, 4)}
    for e in manifest.entries:
        hidden = re.findall(r"The secret number of (\w+) is (\d{5})\.", e.example.context)
        assert (len(hidden), len(e.example.answers)) == expected[kind]
        asked = e.example.meta["keys"]
        assert {v for k, v in hidden if k in asked} == set(e.example.answers)
        assert all(key in e.example.question for key in asked)
        assert len(re.findall(r"\d{5}", e.example.context)) == len(hidden), "no other number"


def test_depths_are_spread_evenly_and_met():
    _, manifest = made("niah/single", BinSpec(2, (10,), range=(600, 2000)))
    for index in (0, 1):
        entries = manifest.of_bin(index)
        depths = sorted(e.example.meta["depth"] for e in entries)
        assert depths == pytest.approx([(i + 0.5) / 10 for i in range(10)])
        for e in entries:
            position = e.example.context.index("The secret number") / len(e.example.context)
            assert position == pytest.approx(e.example.meta["depth"], abs=0.12)


def test_more_distractors_on_request():
    _, manifest = made("niah/multikey", BinSpec(1, (2,), range=(600, 900)), needles=12)
    assert manifest.entries[0].example.context.count("The secret number of") == 12


@given(st.lists(st.sampled_from(["one", "two.", "three", "four?"]), max_size=30),
       st.lists(st.floats(0, 1), max_size=4))  # fmt: skip
def test_hiding_keeps_all_words_in_order_and_needles_between_sentences(words, depths):
    needles = {f"Needle{i}.": depth for i, depth in enumerate(depths)}
    text = hide(words, needles).split()
    assert [word for word in text if not word.startswith("Needle")] == words
    assert sorted(word for word in text if word.startswith("Needle")) == sorted(needles)
    for before, word in itertools.pairwise(text):
        assert not word.startswith("Needle") or ends_sentence(before)


def test_the_prose_is_prose():
    words = load_haystack("prose").words
    assert len(words) > 10_000
    assert not any(re.search(r"\d{3}", word) for word in words)
    assert sum(word.isalpha() for word in words) > 0.75 * len(words)


def test_tracking_chain_can_be_followed():
    _, manifest = made("tracking/variables", BinSpec(1, (3,), range=(700, 1200)), chains=2, hops=3)
    for e in manifest.entries:
        value = e.example.meta["value"]
        holders = re.findall(rf"Variable (\w+) gets the number {value}\.", e.example.context)
        copies = re.findall(r"Variable (\w+) gets the value of variable (\w+)\.", e.example.context)
        assert len(copies) == 6
        for target, source in copies:  # a source is set before it is copied
            if source in holders:
                holders.append(target)
        assert tuple(holders) == e.example.answers
        assert len(holders) == 4


def test_counting_answers_are_the_most_frequent_words_and_unambiguous():
    _, manifest = made("counting/words", common=4)
    for e in manifest.entries:
        words = e.example.context.split(", ")
        counts = {word: words.count(word) for word in set(words)}
        top = sorted(counts, key=counts.get, reverse=True)
        assert set(top[:4]) == set(e.example.answers)
        assert counts[top[3]] >= 3 * counts[top[4]]
        assert not any(a in w for a in e.example.answers for w in set(words) - {a})


def test_a_bin_too_short_for_the_task_says_so():
    with pytest.raises(UsageError, match="without any filler") as caught:
        made("niah/multiquery", BinSpec(1, (1,), range=(10, 20)))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("name", NAMES)
def test_options_change_the_template_version_and_unknown_ones_are_refused(name):
    option = {
        "counting/words": {"common": 3},
        "reasoning/arithmetic": {"steps": 3},
        "tracking/variables": {"hops": 2},
    }
    changed = get_task(name, options=option.get(name, {"needles": 7}))
    assert changed.template_version != get_task(name).template_version
    with pytest.raises(UsageError, match="haystak") as caught:
        get_task(name, options={"haystak": "prose"})
    assert len(str(caught.value).splitlines()) == 2


def test_all_generated_tasks_are_tested_here():
    assert set(NAMES) <= set(task_names())
