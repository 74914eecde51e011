"""Identity is a hash of content; records are JSON both ways."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.records import (
    Answer,
    Arm,
    Cell,
    Example,
    Prompt,
    Request,
    Sampling,
    Telemetry,
    canonical,
    digest,
    format_budget,
    to_json,
)
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest

ARM = Arm("local", "m", "f", "snapkv", 0.2, Sampling(), "t")
REQUEST = Request(ARM, "niah/single", 0, "e", 0, Prompt("head", "tail", 8))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), json_values))
def test_digest_ignores_the_order_of_keys(data: dict[str, object]) -> None:
    assert digest(data) == digest(dict(reversed(data.items())))
    assert json.loads(canonical(data)) == data


def test_a_request_key_changes_with_everything_that_changes_an_answer() -> None:
    changed = [
        dataclasses.replace(REQUEST, example_id="other"),
        dataclasses.replace(REQUEST, replicate=1),
        dataclasses.replace(REQUEST, aa=True),
        dataclasses.replace(REQUEST, prompt=Prompt("head", "tail", 9)),
        dataclasses.replace(REQUEST, prompt=Prompt("head", "tail!", 8)),
        dataclasses.replace(REQUEST, prompt=Prompt("head", "tail", 8, chat=False)),
        *(
            dataclasses.replace(REQUEST, arm=dataclasses.replace(ARM, **change))
            for change in (
                {"fingerprint": "g"},
                {"model": "n"},
                {"policy": "knorm"},
                {"budget": 0.3},
                {"question_aware": False},
                {"params": {"window_size": 32}},
                {"sampling": Sampling(temperature=0.5)},
                {"template_version": "u"},
            )
        ),
    ]
    keys = [r.key for r in [REQUEST, *changed]]
    assert len(set(keys)) == len(keys)


def test_a_variant_name_alone_changes_nothing() -> None:
    named = dataclasses.replace(REQUEST, arm=dataclasses.replace(ARM, variant="v"))
    assert named.key == REQUEST.key
    assert named.arm.arm_id != ARM.arm_id


def test_examples_of_one_context_are_one_cluster() -> None:
    one, two = Example("1", "q", "same", ("a",)), Example("2", "r", "same", ("b",))
    assert one.cluster == two.cluster != Example("3", "q", "other", ("a",)).cluster


@pytest.mark.parametrize("context", ["", "  \n"])
def test_examples_without_a_context_are_clusters_of_their_own(context: str) -> None:
    many = [Example(str(n), f"q{n}", context, ("a",)) for n in range(60)]
    assert len({example.cluster for example in many}) == 60


def test_a_row_names_its_cluster() -> None:
    def named(number: int, name: object) -> str:
        return Example(str(number), "q", f"c{number}", ("a",), {"cluster": name}).cluster

    assert named(1, "page 7") == named(2, "page 7")
    assert named(1, 7) == named(2, "7") != named(3, 8)


def test_manifest_and_answer_round_trip() -> None:
    example = Example("1", "q", "c", ("a", "b"), {"depth": 0.5})
    manifest = TaskManifest(
        "t",
        "any_of",
        "v",
        "tok",
        (Bin(0, None, 10), Bin(1, 10, None)),
        (ManifestEntry(example, 0, 5, "sha", 8),),
    )
    assert TaskManifest.from_json(json.loads(canonical(to_json(manifest)))) == manifest
    answer = Answer("k", "text", "stop", Telemetry(1.5, achieved=0.2))
    assert Answer.from_json(json.loads(canonical(to_json(answer)))) == answer


@given(st.floats(0.001, 1))
def test_budgets_that_differ_look_different(budget: float) -> None:
    assert float(format_budget(budget)) == float(f"{budget:.10g}")


def test_item_ids() -> None:
    assert Cell("niah/single", 2, "snapkv", 0.2).item_id == "niah-single-bin2-snapkv-0.20"
    assert Cell("niah/single", 2, "snapkv", 0.125).item_id == "niah-single-bin2-snapkv-0.125"
    assert Cell("niah/single", 2, "none", 1.0).item_id == "niah-single-bin2-control"
    assert Cell("a/b", 0, "x", 0.5, "hot").item_id == "a-b-bin0-x-0.50-hot"
