from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.predictions import score_file


@pytest.fixture
def scored(tmp_path):
    def scored(task, *rows, **options):
        path = tmp_path / "predictions.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return list(score_file(task, path, options=options))

    return scored


def test_a_line_in_a_line_out(scored):
    rows = [
        {"prediction": "Paris\nLondon", "answers": ["London", "Paris"], "all_classes": None},
        {"prediction": "", "answers": ["Paris"]},
        {"prediction": "Par", "answers": ["Paris"], "finish_reason": "length"},
    ]
    assert scored("longbench/triviaqa", *rows) == [
        {"score": 1.0, "label": ""},
        {"score": 0.0, "label": "EMPTY_OUTPUT"},
        {"score": 0.0, "label": "TRUNCATED"},
    ]


def test_tasks_decide_about_the_metric(scored, monkeypatch):
    monkeypatch.delenv("KVBENCH_LONGBENCH", raising=False)
    classes = ["City", "Country"]
    row = {"prediction": "City\nCountry", "answers": ["City"], "all_classes": classes}
    assert scored("longbench/trec_e", row)[0]["score"] == 1.0
    row = {"prediction": "The correct answer is C", "answers": ["C"]}
    assert scored("longbench2/all", row)[0]["score"] == 1.0
    row = {"prediction": "12345", "answers": ["12345", "54321"]}
    assert scored("niah/multivalue", row)[0]["score"] == 0.5
    assert scored("ruler/vt", row)[0]["score"] == 0.5
    assert scored("ruler/qa_1", row)[0]["score"] == 1.0
    row = {"prediction": "It is 12345", "answers": ["12345"]}
    assert scored("jsonl:none.jsonl", row)[0]["score"] == 1.0
    assert scored("jsonl:none.jsonl", row, metric="exact_match")[0]["score"] == 0.0


def test_data_are_not_needed_even_where_local_data_lack_the_task(scored, monkeypatch, tmp_path):
    (tmp_path / "multi_news.jsonl").touch()
    monkeypatch.setenv("KVBENCH_LONGBENCH", str(tmp_path))
    row = {"prediction": "3", "answers": ["Paragraph 3"]}
    assert scored("longbench/passage_retrieval_en", row)[0]["score"] == 1.0


def test_evidence_comes_with_its_context(scored):
    row = {
        "prediction": '{"choice": "B", "quotes": ["it was dark"]}', "answers": ["B"],
        "context": "At night it was dark.", "options": ["light", "it was dark", "red", "blue"],
    }  # fmt: skip
    assert scored("evidence/mcq", row) == [{"score": 1.0, "label": ""}]


@pytest.mark.parametrize(
    "row", [{"answers": ["x"]}, {"prediction": "x"}, {"prediction": 1, "answers": ["x"]}]
)
def test_lines_that_lack_something_are_named(scored, row):
    with pytest.raises(UsageError, match="row 2") as caught:
        scored("niah/single", {"prediction": "x", "answers": ["x"]}, row)
    assert len(str(caught.value).splitlines()) == 2
