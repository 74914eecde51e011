"""Which pairs a posterior is made from: each once, of what may be judged, where it was seen."""

from __future__ import annotations

import shutil

import numpy as np

from pytest_kvbench.cli.posterior import posterior_lines
from pytest_kvbench.ops.paired import ArmDoubt, paired_curves, read_pairs
from pytest_kvbench.ops.posteriors import inputs_of
from pytest_kvbench.pipeline.group import open_group
from pytest_kvbench.records import FULL_CACHE
from tests.support.groups import make_group

ONE = {"policies": ["snapkv"], "budgets": [1.0, 0.2]}


def curves(*groups):
    return paired_curves(map(read_pairs, groups)).pairs


def test_an_answer_counts_once_whatever_its_copies_are_called(tmp_path):
    make_group(tmp_path, "a", per_bin=30)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    alike = make_group(tmp_path, "asked_the_same", per_bin=20)
    one, copy = (open_group(tmp_path / name) for name in ("a", "copy"))
    for groups in ((one,), (one, copy), (copy, one), (alike, one, copy)):
        assert [(c.key.group, len(c.control)) for c in curves(*groups)] == [("a", 30), ("a", 30)]
    other = make_group(tmp_path, "other", per_bin=20, examples="other")
    assert sum(len(c.control) for c in curves(one, other)) == 2 * (30 + 20)


def test_rungs_that_another_group_added_are_of_the_same_curve(tmp_path):
    draw = lambda cell, i, rng: float(cell.budget > 0.3)  # noqa: E731
    small = make_group(tmp_path, "small", bins=1, per_bin=30, draw=draw, kv=ONE)
    more = {"policies": ["snapkv"], "budgets": [1.0, 0.5, 0.4]}
    large = make_group(tmp_path, "large", bins=1, per_bin=30, draw=draw, kv=more)
    (curve,) = curves(small, large)
    assert (curve.key.group, curve.budgets) == ("large", (0.5, 0.4, 0.2))
    assert curve.treated.mean(axis=0).tolist() == [1, 1, 0]


def test_what_best_leaves_out_is_left_out_and_what_it_marks_is_marked(tmp_path):
    kv = {"policies": ["snapkv", "tova", "knorm", "keydiff"], "budgets": [1.0, 0.2]}
    nothing_said = {"tova": None, "knorm": 1.0, "keydiff": None}
    group = make_group(
        tmp_path,
        draw=lambda c, i, rng: float(c.policy in (FULL_CACHE, "tova", "knorm") or i % 4 > 0),
        applied=lambda cell: nothing_said.get(cell.policy, cell.budget),
        bins=1,
        per_bin=60,
        kv=kv,
    )
    inputs = inputs_of([group])
    assert {c.key.policy for c in inputs.pairs} == {"snapkv", "keydiff"}
    found = {arm.policy: arm.doubt for arm in inputs.doubts}
    assert found == {"tova": "placebo?", "knorm": "not measured", "keydiff": "unverified"}


def test_arms_that_are_known_to_be_bad_are_in_no_curve(tmp_path):
    group = make_group(tmp_path, bins=1, per_bin=30, kv=ONE, sensitivity={"policy": "random"})
    assert {c.key.policy for c in curves(group)} == {"snapkv"}


def test_where_a_bin_is_open_the_prompts_say_how_long_they_are(tmp_path):
    short = make_group(tmp_path, "short", per_bin=30, tokens=50)
    long_ = make_group(tmp_path, "long", per_bin=30, tokens=8000, bins=1, examples="l")
    longer = make_group(tmp_path, "longer", per_bin=20, tokens=8050, bins=1, examples="m")
    found = {(c.key.group, c.key.low, c.key.high): c.length for c in curves(short, long_, longer)}
    assert found == {
        ("short", 50, 99): 64.5,
        ("short", 100, 179): 164.5,
        ("long", 8000, 8069): 8014.5,
        ("longer", 8000, 8069): 8059.5,
    }


def said(interval, pairs, moved=0.01, doubts=()):
    """The lines of an analysis with one statement."""
    budgets = [
        {"budget": b, "interpolated": b == 0.3, "below_margin": 0.9, "pairs": pairs * (b != 0.3)}
        for b in (0.5, 0.3, 0.2)
    ]
    where = {"task": "t", "low": 0, "high": 59}
    statement = {"policy": "p", "place": where, "budgets": budgets, "groups": {"g": 1.0}}
    analysis = {
        "config": {
            "curves": [{"group": "g", "pairs": pairs, "budgets": [0.5, 0.2]}],
            "sampling": {"sampler": "nuts", "seed": 1},
            "margin": 0.1,
            "doubts": [ArmDoubt(*doubt)._asdict() for doubt in doubts],
        },
        "not_monotone": [],
        "problems": [],
        "statements": [{**statement, "interval": interval}],
        "comparisons": [],
        "prior_sensitivity": moved,
    }
    for b in budgets:
        b["loss"] = 0.0
    return "\n".join(posterior_lines(analysis))


def test_a_transition_is_said_in_words_that_can_be_read():
    begins = "a loss of 0.1 or more begins"
    assert f"{begins} between 0.5 and 0.2, 90% likely; 60 pairs, from g" in said((0.5, 0.2), 60)
    assert f"{begins} at no measured budget, down to 0.2, 95%" in said((0.2, None), 60)
    assert f"{begins} below 0.5, or at no measured budget" in said((0.5, None), 60)
    assert f"where {begins} is open" not in said((1.0, 0.5), 60)
    assert f"where {begins.replace(' begins', '')} begins is open" in said((1.0, None), 60)


def test_few_answers_and_moving_priors_are_said_to_leave_it_to_the_prior():
    assert "! 3 pairs alone cannot tell a loss of 0.1 from none: the prior" in said((1.0, None), 3)
    assert "the prior" not in said((0.5, 0.2), 60)
    assert "more than 0.20: they decide, not the answers alone" in said((0.5, 0.2), 60, moved=0.2)


def test_doubts_stand_beside_what_is_said():
    text = said((0.5, 0.2), 60, doubts=[("t", "q", 0.2, "placebo?"), ("t", "p", 0.5, "unverified")])
    assert "! left out, placebo?: q 0.2 on t" in text
    assert "  ! p 0.5 on t unverified" in text
    assert "unverified" not in said((0.5, 0.2), 60, doubts=[("other", "p", 0.5, "unverified")])


def test_pairs_keep_their_contexts_and_what_is_missing(tmp_path):
    (curve, _) = curves(make_group(tmp_path, per_bin=30, failed=1))
    assert np.isnan(curve.treated).sum() == 1
    assert sorted(curve.cluster) == list(range(30))


def test_recipes_that_best_keeps_apart_are_apart(tmp_path):
    """Groups that differ in temperature, dtype, engine or a variant's wording; two that do not."""
    warm = {"warm": {"temperature": 0.7}}
    local = {"name": "local", "model": "m"}
    keys = {
        "plain": {"engine": {**local, "dtype": "float16"}},
        "again": {"engine": {**local, "dtype": "float16"}},
        "wide": {"engine": {**local, "dtype": "float32"}},
        "hot": {"engine": {**local, "dtype": "float16"}, "sampling": {"temperature": 0.7}},
        "named": {"engine": {**local, "dtype": "float16"}, "variants": warm},
        "brief": {"variants": {"said": {"before": "Be brief."}}},
        "slow": {"variants": {"said": {"before": "Think slowly."}}},
    }
    groups = [
        make_group(tmp_path, name, bins=1, per_bin=4, kv=ONE, examples=name, **own)
        for name, own in keys.items()
    ]
    found = {c.key.group: c.key.policy for c in curves(*groups[:4])}
    cold = "snapkv dtype=float16 temperature=0.0"
    assert found == {
        "plain": cold,
        "again": cold,
        "wide": "snapkv dtype=float32 temperature=0.0",
        "hot": "snapkv dtype=float16 temperature=0.7",
    }
    assert {c.key.policy for c in curves(*groups[:2])} == {"snapkv"}
    assert {c.key.policy for c in curves(groups[3], groups[4])} == {"snapkv variant=warm"}
    brief, slow = sorted(c.key.policy for c in curves(*groups[5:]))
    assert brief.startswith("snapkv variant=said template=")
    assert brief != slow
