"""Policies by name: read from kvpress, checked, composed; nothing here imports torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.cli import main
from pytest_kvbench.errors import UsageError
from pytest_kvbench.policies import catalogue as catalogue_module
from pytest_kvbench.policies.naming import name_of
from pytest_kvbench.policies.table import POLICIES, catalogue, checked, get_policy, min_tokens

USUAL = set(
    """
    snapkv adakv criticalkv critical_adakv chunkkv chunk block kvzip fastkvzip kvgrad kvcompose
    restorekv kvzap think duo_attention compactor leverage cur cap cam lagkv lukv merging
    non_causal_attention observed_attention qfilter finch simlayerkv key_rerotation per_layer dms
    decoding ratio_decoding prefill_decoding expected_attention_stats entropy_gated_chunkkv
    composed knorm tova random keydiff pyramidkv streaming_llm expected_attention
    """.split()  # noqa: SIM905
)


def test_every_press_has_its_usual_name_and_torch_stays_out() -> None:
    every = catalogue()
    presses = [policy for policy in every.values() if policy.press]
    assert {policy.name for policy in presses} == USUAL
    assert list(every)[: len(POLICIES)] == list(POLICIES)
    code = (
        "import sys; from pytest_kvbench.policies.table import catalogue; catalogue();"
        "print({'kvpress', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("adakv", "shared"),
        ("kvzip", "own"),
        ("composed", "own"),
        ("decoding", "decoding"),
        ("dms", "decoding"),
        ("hqq_int4", "quantised"),
    ],
)
def test_what_a_class_does_decides_how_it_is_served(name: str, served: str) -> None:
    assert get_policy(name).serving == served
    assert get_policy("observed_attention").eager


@pytest.mark.parametrize(
    ("press", "name"),
    [
        ("ExpectedAttentionPress", "expected_attention"),
        ("EntropyGatedChunkKVPress", "entropy_gated_chunkkv"),
        ("FastKVzipPress", "fastkvzip"),
        ("BrandNewKVPress", "brand_newkv"),
        ("TOVAPress", "tova"),
    ],
)
def test_names_follow_from_classes(press: str, name: str) -> None:
    assert name_of(press) == name


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("adakv", {"press": "snapkw"}, "snapkw"),
        ("adakv", {"press": {"policy": "snapkv", "windo": 3}}, "windo"),
        ("adakv", {"press": "hqq_int4"}, "cannot be a part"),
        ("adakv", {"press": 3}, "press is 3"),
        ("composed", {}, "needs the parameter presses"),
        ("composed", {"presses": []}, "presses is []"),
        ("dms", {}, "needs the parameter threshold"),
        ("cur", {"leverage_type": "no"}, "leverage_type"),
        ("finch", {}, "token of its own"),
        ("no_such", {}, "unknown policy"),
        ("./nowhere.py:Mine", {}, "there is no file ./nowhere.py"),
        ("no_such_module.press:Mine", {}, "there is no module"),
    ],
)
def test_what_is_wrong_is_said_in_two_lines(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace("[]", r"\[\]")) as refused:
        checked(name, params)
    assert refused.value.hint.startswith(("Valid", "did you mean"))


def test_a_composition_needs_what_its_parts_need() -> None:
    inner = {"policy": "snapkv", "window_size": 200}
    assert min_tokens(*checked("criticalkv", {"press": inner})) == 201
    assert min_tokens(*checked("composed", {"presses": ["knorm", inner]})) == 201
    assert min_tokens(*checked("kvzip", {})) == 1


@pytest.mark.parametrize("budget", [0.7, 0.5, 0.3])
def test_whole_chunks_are_within_their_slack_whichever_is_kept(budget: float) -> None:
    """As kvpress counts: so many chunks, one of which may be the shorter last one."""
    for tokens in range(192, 320):
        kept = 5 * int(-(-tokens // 5) * budget) - (5 - tokens % 5) % 5
        slack = get_policy("chunkkv").slack({"chunk_length": 5}, tokens)
        assert abs(kept / tokens - budget) <= slack


def test_fixed_ratios_and_slack() -> None:
    assert get_policy("hqq_int4").fixed_budget({}, 32) == pytest.approx(0.15625)
    assert get_policy("hqq_int4").fixed_budget({}, 16) == pytest.approx(0.28125)
    ratios = {"compression_ratios": [0.2, 0.4]}
    assert get_policy("per_layer").fixed_budget(ratios) == pytest.approx(0.7)
    assert get_policy("dms").fixed_budget({"threshold": 1.0, "budget": 0.4}) == 0.4
    assert get_policy("snapkv").fixed_budget({}) is None
    assert get_policy("decoding").slack({"compression_interval": 8}, 400) == 0.02
    assert get_policy("chunkkv").slack({}, 400) == 0.1
    assert get_policy("knorm").slack({}, 400) == 0.0


@given(
    st.sampled_from(sorted(catalogue())),
    st.dictionaries(
        st.sampled_from(["press", "presses", "budget", "threshold", "window_size", "seed", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["policy", "press", "y"]), inner, max_size=2)
            ),
            max_leaves=5,
        ),
        max_size=3,
    ),
)
def test_odd_parameters_are_refused_or_plain_data(name: str, params: dict[str, Any]) -> None:
    try:
        policy, whole = checked(name, params)
    except UsageError:
        return
    assert set(whole) == set(policy.params)
    json.dumps(whole, allow_nan=False)


def test_another_kvpress_brings_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "kvpress"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from dataclasses import dataclass\n"
        "class BasePress:\n"
        "    def post_init_from_model(self, model): pass\n"
        "    def compress(self, module, hidden_states, keys, values, attentions, kwargs): ...\n"
        "    def forward_hook(self, module, input, kwargs, output): ...\n"
        "    def __call__(self, model): ...\n"
        "@dataclass\n"
        "class ScorerPress(BasePress):\n"
        "    compression_ratio: float = 0.0\n"
        "    def score(self): ...\n"
        "    def compress(self, *a): ...\n"
        "@dataclass\n"
        "class BrandNewPress(ScorerPress):\n"
        "    '''Keeps what is new.'''\n"
        "    novelty: float = 0.25\n"
        "    def score(self, *a): return self.novelty\n"
        "__all__ = ['BasePress', 'ScorerPress', 'BrandNewPress']\n"
    )
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalogue_module, "_found", lambda: [package])
    catalogue.cache_clear()
    try:
        policy = get_policy("brand_new")
        assert policy.note == "Keeps what is new."
        assert policy.params["novelty"].default == 0.25
        assert (policy.serving, policy.dial) == ("shared", "compression_ratio")
        assert "adakv" not in catalogue()
    finally:
        catalogue.cache_clear()


def test_the_command_lists_them() -> None:
    ran = CliRunner().invoke(main, ["policies"])
    assert ran.exit_code == 0
    assert "kvzip: " in ran.output
    assert "a pass of its own" in ran.output
    listed = json.loads(CliRunner().invoke(main, ["policies", "--json"]).output)
    assert {row["name"] for row in listed} == set(catalogue())
    assert next(r for r in listed if r["name"] == "adakv")["proof"].startswith("simulated")
