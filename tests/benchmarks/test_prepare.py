"""Preparing 5,000 examples against the bare tokenizer over the same texts, in one run.

pytest tests/benchmarks/test_prepare.py -n 0

Processor time, all in one thread: neighbours on the machine do not change the ratio.
"""

from __future__ import annotations

import json
import random
import time

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pytest_kvbench.records import to_json
from pytest_kvbench.selection import TaskManifest
from pytest_kvbench.store.store import Store
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.haystack import load_haystack
from pytest_kvbench.tasks.manifest import build_task_manifest, write_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer

EXAMPLES = 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level BPE and 5,000 rows of 50 to 700 words."""
    folder = tmp_path_factory.mktemp("prepare")
    words = load_haystack("prose").words
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=4000, show_progress=False)
    backend.train_from_iterator([" ".join(words)], trainer)
    backend.save(str(folder / "tokenizer.json"))
    rng = random.Random(0)
    with (folder / "data.jsonl").open("w") as file:
        for i in range(EXAMPLES):
            start = rng.randrange(len(words) - 700)
            context = " ".join(words[start : start + rng.randrange(50, 700)])
            row = {"question": f"What is {i}?", "context": context, "answers": [str(i)]}
            file.write(json.dumps(row) + "\n")
    return folder


def bare_loop(folder):
    """Processor seconds of the plain tokenizer over the prompts, as anyone would write it."""
    task = get_task(f"jsonl:{folder / 'data.jsonl'}")
    texts = [task.prompt(e).text for e in task.examples(BinSpec(1, (1,)), None, 0)]
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = time.process_time()
    counts = [len(backend.encode(text).ids) for text in texts]
    return time.process_time() - start, counts


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize(
    ("options", "share"),
    # Cutting near every text's middle has to tokenize twice: before, for the place, and after.
    [({}, 0.5), ({"max_length": 600}, 0.4)],
    ids=["whole", "cut at 600"],
)
def test_preparing_keeps_up_with_the_bare_tokenizer(benchmark, folder, options, share):
    def prepare():
        tokenizer = load_tokenizer("auto", serving=folder)
        task = get_task(f"jsonl:{folder / 'data.jsonl'}", options=options)
        made = build_task_manifest(task, BinSpec(5, (EXAMPLES,)), tokenizer, 0)
        write_manifest(folder / "manifest.json", [made], {"seed": 0})
        with Store(folder / f"{len(options)}.sqlite") as store:
            store.save_manifest(made, {})
        return made

    made = benchmark.pedantic(prepare, rounds=1, iterations=1)
    bare, counts = bare_loop(folder)
    benchmark.extra_info["bare_tokenizer_s"] = round(bare, 2)
    benchmark.extra_info["speed_share"] = round(bare / benchmark.stats.stats.min, 2)
    assert len(made.entries) == EXAMPLES
    if not options:
        assert sum(e.tokens for e in made.entries) == sum(counts)
    (stored,) = json.loads((folder / "manifest.json").read_bytes())["tasks"]
    assert TaskManifest.from_json(stored) == made
    assert benchmark.extra_info["speed_share"] >= share


def test_a_generated_bin_of_25_long_examples_takes_well_under_a_second(benchmark, folder):
    def generate():
        tokenizer = load_tokenizer("auto", serving=folder)
        spec = BinSpec(1, (25,), range=(1900, 2100))
        return build_task_manifest(get_task("niah/single"), spec, tokenizer, 0)

    made = benchmark.pedantic(generate, rounds=3, iterations=1)
    assert len(to_json(made)["entries"]) == 25
    assert benchmark.stats.stats.min < 1.0
