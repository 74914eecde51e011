"""A paper's scores beside ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.report.published import COLUMNS, section
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.text import NOTHING
from tests.support.pages import ROOT
from tests.support.summaries import make_summary

PAPERS = sorted((ROOT / "evals/experiments/papers").glob("*.yaml"))


def declared(*scores):
    published = {"source": "a table", "model": "m-8b", "scores": list(scores)}
    return Experiment(group="g", tasks=("niah/single",), published=published).snapshot()


def table(*scores, summary=None):
    summary = summary or make_summary()
    summary["experiment"] = {**summary["experiment"], **declared(*scores)}
    found = section(Results(summary))
    return [dict(zip(COLUMNS, (v.prose for v in row), strict=True)) for row in found.blocks[1].rows]


def test_ours_stands_beside_what_is_published():
    summary = make_summary()
    results = Results(summary)
    cell = next(c for s in results.series for c in results.headline_cells(s))
    one, same, other, full, tokens = table(
        {"task": cell["task"], "policy": cell["policy"], "budget": cell["budget"], "score": 50},
        {"task": cell["task"], "policy": cell["policy"], "score": 50},
        {"task": cell["task"], "policy": cell["policy"], "budget": 0.123, "score": 50},
        {"task": cell["task"], "score": 95.4},
        {"task": cell["task"], "policy": cell["policy"], "tokens": 1024, "score": 50},
        summary=summary,
    )
    ours = 100 * cell["treated_mean"]
    assert (one["Ours"], one["Ours less published"]) == (f"{ours:.2f}", f"{ours - 50:+.2f}")
    assert one["Published"] == "50.00"
    assert (other["Ours"], tokens["Ours"]) == (NOTHING, NOTHING)
    assert full["Ours"] == f"{100 * cell['control_mean']:.2f}"
    assert tokens["Budget"] == "1,024 tokens"
    assert same["Ours"] == one["Ours"], "a policy of one budget needs none"


def test_a_mean_is_over_all_tasks_or_there_is_none():
    summary = make_summary(tasks=("niah/single", "niah/multikey"))
    results = Results(summary)
    first, second = (results.headline_cells(series)[0] for series in results.series)
    wanted = {"policy": first["policy"], "budget": first["budget"], "score": 1}
    assert (second["policy"], second["budget"]) == (wanted["policy"], wanted["budget"])
    (mean,) = table(wanted, summary=summary)
    assert mean["Task"] == "all (mean)"
    assert mean["Ours"] == f"{50 * (first['treated_mean'] + second['treated_mean']):.2f}"
    assert mean["n"] == str(first["n"] + second["n"])
    summary["cells"].remove(second)
    assert table(wanted, summary=summary)[0]["Ours"] == NOTHING


def test_nothing_is_said_where_no_paper_is_named():
    assert not section(Results(make_summary())).blocks
    assert "published" not in Experiment(group="g", tasks=("niah/single",)).snapshot()


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_papers_experiments_can_be_planned(path: Path):
    experiment = load_experiment(path).experiment
    assert experiment.published is not None
    policies = {"none", *experiment.kv.policies}
    for score in experiment.published.scores:
        assert score.policy in policies
        assert score.task is None or score.task in experiment.tasks
        assert score.budget in {None, *experiment.kv.budgets}


def test_there_are_papers():
    assert len(PAPERS) == 4


def test_a_wrong_score_is_refused(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(
        "group: g\ntasks: [niah/single]\npublished: {source: s, model: m, scores: [{score: 954}]}\n"
    )
    with pytest.raises(UsageError, match="published"):
        load_experiment(path)
