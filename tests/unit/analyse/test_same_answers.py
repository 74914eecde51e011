"""Placebos and twins: judged over all bins, and against how far the control agrees with itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pytest_kvbench.analyse import Rules, analyse
from pytest_kvbench.analyse.alike import Agreement
from pytest_kvbench.analyse.floor import floors, repeats
from pytest_kvbench.analyse.pairs import checked_observations
from pytest_kvbench.cellkey import CellGroup
from tests.unit.analyse.test_analyse import cell, codes, request

RULES = Rules(margin=0.10, alpha=0.05)
MINE, OTHER = ("mine", 0.5), ("other", 0.5)


def answers(random, n, noise, *, bins=1, arms=(MINE,), changed=0.0, aa=True, twice=False):
    """A server that gives another text with chance `noise`; its arms change a share of them.

    With `twice` the second arm changes the same examples in the same way: it is the first.
    """
    plan = [(("none", 1.0), False), *([(("none", 1.0), True)] if aa else [])]
    plan += [(arm, False) for arm in arms]
    rows = []
    for bin_ in range(bins):
        hit = {arm: random.random(n) < changed for arm in arms}
        for arm, again in plan:
            treated = hit[arms[0] if twice else arm] if arm in hit else np.zeros(n, bool)
            for i in range(n):
                own = f"{arm[0]} {i}" if treated[i] and not twice else f"other way {i}"
                text = own if treated[i] else f"answer {i}"
                text = f"noise {random.random()}" if random.random() < noise else text
                facts = {"aa": again, "bin": bin_, "proof": "unverified", "text": text}
                rows.append(request(i, *arm, **facts))
    return rows


def flagged(rows, code, policy="mine", bin_=0):
    return code in codes(cell(analyse(pd.DataFrame(rows), RULES), policy, bin_=bin_))


def agreements(random, n, noise, changed=0.0, runs=400):
    """What comes of it text by text: the arm beside the control, the control beside itself."""
    for _ in range(runs):
        control, again, treated = random.random((3, n)) < noise
        hit = random.random(n) < changed
        yield Agreement.of(~(control | treated | hit), 1.0 - (control | again))


def called_alike(random, *how):
    found = list(agreements(random, *how))
    return np.mean([a.rules_out_a_change and not a.exceeds_noise for a in found])


@pytest.mark.parametrize("aa", [True, False])
def test_a_placebo_of_six_bins_of_eight_is_found_whatever_the_server_makes_of_it(aa):
    """The control's own address under another name; 5% of its replies differ from time to time."""
    random = np.random.default_rng(3)
    assert flagged(answers(random, 8, 0.0, bins=6, aa=aa), "placebo", bin_="all")
    assert flagged(answers(random, 8, 0.05, bins=6, aa=aa), "placebo", bin_="all")
    for n in (40, 120):
        assert flagged(answers(random, n, 0.05, aa=aa), "placebo")


def test_how_often_placebos_are_found_and_treatments_taken_for_them():
    random = np.random.default_rng(20261127)
    for n in (40, 48, 120):
        for noise in (0.0, 0.02, 0.05):
            assert called_alike(random, n, noise) >= 0.97
        assert called_alike(random, n, 0.05, 0.3) <= 0.04
    assert called_alike(random, 120, 0.05, 0.2) <= 0.06
    assert called_alike(random, 1_000, 0.9) == 0  # nothing can be seen through so much noise


def test_losses_alone_are_no_noise():
    """Without a second run of the control, what is lost and never gained tells them apart."""
    rows = [request(i, text="a") for i in range(60)]
    treated = [
        request(i, *MINE, 0.0 if i < 7 else 1.0, proof="unverified", text="b" if i < 7 else "a")
        for i in range(60)
    ]
    assert not flagged(rows + treated, "placebo")


@pytest.mark.parametrize(("twice", "aa"), [(True, True), (True, False), (False, True)])
def test_twins_are_found_through_noise_and_over_bins(twice, aa):
    """30% of the texts changed, by two names of one treatment, or by two treatments."""
    how = {"noise": 0.05, "changed": 0.3, "arms": (MINE, OTHER), "twice": twice, "aa": aa}
    rows = answers(np.random.default_rng(5), 40, bins=3, **how)
    assert flagged(rows, "twin", bin_="all") is (twice and aa)


def test_few_changed_answers_in_each_bin_are_twins_together():
    rows = []
    for bin_ in range(3):
        for i in range(10):
            own = "changed" if i < 3 else f"answer {i}"
            rows.append(request(i, bin=bin_, text=f"answer {i}"))
            rows += [request(i, *arm, bin=bin_, text=own) for arm in (MINE, OTHER)]
    out = analyse(pd.DataFrame(rows), RULES)
    assert "twin" not in codes(cell(out, "mine"))
    assert {"twin"} <= codes(cell(out, "mine", bin_="all")) & codes(cell(out, "other", bin_="all"))
    (said,) = out.integrity["placebos"]
    assert "bin all" in said
    assert "9 of the 9" in said


def test_the_floor_says_how_often_the_control_repeats_itself():
    rows = answers(np.random.default_rng(0), 200, 0.05)
    out = analyse(pd.DataFrame(rows), RULES)
    floor = out.integrity["aa"]
    assert floor["replies"] == 200
    assert 165 < floor["same"] < 195
    assert floor["discordance"] == 0
    (of_group,) = floors(repeats(checked_observations(pd.DataFrame(rows)))).items()
    assert of_group[0] == CellGroup("niah/single", 0)
    assert of_group[1].same == floor["same"]


@pytest.mark.parametrize(
    ("agreement", "ruled_out"),
    [
        (Agreement(10, 10), True),
        (Agreement(8, 8), False),
        (Agreement(0, 0), False),
        (Agreement(5, 100, noise=95), False),
        (Agreement(36, 40, noise=4), True),
    ],
)
def test_a_change_is_ruled_out_only_by_enough_equal_answers(agreement, ruled_out):
    assert agreement.rules_out_a_change is ruled_out
