"""What an analysis holds of stored answers, and where it judges them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvbench.pipeline import conclude, judge_process, observe
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.store.store import Store
from tests.support.groups import make_group


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_group(tmp_path_factory.mktemp("reports"), bins=2, per_bin=12)


def test_long_replies_are_held_as_hashes_and_shown_whole(
    group: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = conclude.analyse(group).summary
    monkeypatch.setattr(observe, "_LONG", 3)
    with Store(group.database) as store:
        held = observe.observations(group, store, group.requests()).column("text")
    assert {text[:7] for text in held} == {"sha256:"}
    assert {row.outcome.text[:7] for row in observed(group).rows} == {"answer "}
    (group.folder / conclude.SUMMARY).unlink()
    after = conclude.analyse(group)
    assert after.changed
    assert before["flips"]
    assert after.summary == before


def test_many_observations_are_judged_in_another_process_alike(
    group: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_process, "_MANY", 1)
    rows = observed(group).judged
    assert judge_process.judge_apart(group.experiment, rows) == judge(group.experiment, rows)


def test_an_example_that_was_lost_names_its_variant(tmp_path: Path) -> None:
    asked = make_group(
        tmp_path, bins=1, per_bin=12, variants={"plain": {}, "brief": {"after": "."}}
    )
    lost = conclude.analyse(asked).summary["flips"]
    assert {flip.get("variant") for flip in lost} == {"plain", "brief"}
