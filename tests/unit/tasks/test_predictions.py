from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.prediction_formats import listed
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


# -- the files of other programs -----------------------------------------------------------------


@pytest.fixture
def scored_csv(tmp_path):
    def scored(task, *rows):
        path = tmp_path / "predictions.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return [line["score"] for line in score_file(task, path)]

    return scored


def values(lines):
    return [line["score"] for line in lines]


def test_longbench_rows(scored):
    rows = [
        {"pred": "\nthe Tower\nQ: x", "answers": ["no", "tower"], "all_classes": None, "length": 9},
        {"pred": "\n\n", "answers": ["tower"], "all_classes": None, "length": 9},
    ]
    assert values(scored("longbench/triviaqa", *rows)) == [1.0, 0.0]
    row = {"pred": " Entity\nNumber", "answers": ["Entity"], "all_classes": ["Entity", "Number"]}
    assert values(scored("longbench/trec_e", {**row, "length": 5})) == [1.0]


def test_longbench_2_counts_the_letter_its_program_read(scored):
    row = {"_id": "1", "difficulty": "easy", "answer": "B", "context": "It was dark."}
    rows = [
        {**row, "response": "The correct answer is (B).", "pred": "B", "judge": True},
        {**row, "response": "so B", "pred": "B", "judge": True},
        {**row, "response": "so B", "pred": None, "judge": False},
        {**row, "response": "The correct answer is (B)", "pred": None, "judge": False},
        {**row, "pred": "C", "judge": False},
    ]
    lines = scored("longbench2/all", *rows)
    assert [bool(score) for score in values(lines)] == [row["judge"] for row in rows]
    assert lines[2]["label"] == "FORMAT_ERROR"


def test_ruler_rows_hold_their_references_in_outputs(scored):
    row = {"index": 0, "input": "...", "others": {}, "truncated": -1, "length": 4096}
    multi = {**row, "pred": " 111 and\x0b222\x00", "outputs": ["111", "222", "333", "and\n222"]}
    assert values(scored("ruler/niah_multivalue", multi)) == [0.75]
    answered = {**row, "pred": "In PARIS", "outputs": ["paris", "lyon"]}
    assert values(scored("ruler/qa_1", answered)) == [1.0]
    assert scored("ruler/vt", {**row, "pred": "\x00 \n", "outputs": ["VAR"]}) == [
        {"score": 0.0, "label": "EMPTY_OUTPUT"}
    ]


def test_kvpress_tables_hold_several_tasks_and_lists_as_numpy_shows_them(scored_csv):
    row = {"context": "c" * 200_000, "question": "q", "answer_prefix": "", "max_new_tokens": 9}
    several = [
        {**row, "answer": "['111' '222'\n '333' '444']", "task": "niah_multivalue"},
        {**row, "answer": "['111', '222']", "task": "niah_multikey_1"},
        {**row, "answer": "[\"it's\" 'no']", "task": "qa_1"},
        {**row, "answer": "1\x0011", "task": "cwe"},
    ]
    said = ["111 and 333", "222", "it's so", "1\x0011"]
    rows = [{**one, "predicted_answer": text} for one, text in zip(several, said, strict=True)]
    assert scored_csv("ruler/niah_single_1", *rows) == [0.5, 0.5, 1.0, 0.0]


def test_kvpress_reads_the_first_line_that_is_not_blank(scored_csv):
    row = {"answers": "['City']", "all_classes": "['City' 'Country']", "task": "trec-e"}
    assert scored_csv("longbench/trec", {**row, "predicted_answer": " \n City\nCountry"}) == [1.0]


def test_lm_eval_samples(scored):
    row = {"doc_id": 0, "target": "no", "arguments": [["...", {}]], "filter": "none"}
    doc = {"input": "q", "answers": ["the tower", "no"], "all_classes": None}
    rows = [
        {**row, "doc": doc, "resps": [["a tower"]], "filtered_resps": ["a tower"]},
        {**row, "doc": doc, "resps": [["a tower"]], "filtered_resps": ["dark"]},
        {**row, "doc": {"question": "q"}, "resps": [["no"]]},
    ]
    assert values(scored("longbench/qasper", *rows)) == [1.0, 0.0, 1.0]
    outputs = {**row, "doc": {"outputs": ["1", "2"]}, "resps": [["1"]], "filtered_resps": ["1"]}
    assert values(scored("ruler/niah_multivalue", outputs)) == [0.5]
    likelihood = {**row, "doc": doc, "resps": [[["-1.5", "False"]]], "filtered_resps": [[-1.5, 0]]}
    for bad in (likelihood, {**likelihood, "filtered_resps": [["-1.5", "False"]]}):
        with pytest.raises(UsageError, match="row 1"):
            scored("longbench/qasper", bad)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"output": "x", "answer": "y"}, "its columns are output, answer"),
        ({"predicted_answer": "x"}, "its columns are predicted_answer"),
        ({"pred": None, "answers": ["x"]}, "pred is not a text"),
        ({"pred": "x", "answers": []}, "answers are empty"),
        ({"pred": "x", "answers": [""]}, "an answer is blank"),
        ({"pred": "x", "answers": [None]}, "answers are not texts"),
        ({"pred": "x", "answers": None}, "answers are missing"),
        ({"pred": "x", "answers": "['a', 'b"}, "no whole list"),
        ({"pred": "E", "answer": "B"}, "valid: A, B, C, D or null"),
        ({"predicted_answer": "x", "answer": "y", "task": "qa_9"}, "unknown task"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_what_can(scored, row, why):
    with pytest.raises(UsageError) as caught:
        scored("ruler/qa_1", {"pred": "x", "outputs": ["x"]}, row)
    what, hint = str(caught.value).split("\n")
    assert "predictions.jsonl: row 2: " in what
    assert why in what
    assert "predicted_answer" in hint or "qa_1" in hint


def test_what_a_metric_lacks_is_said_of_the_row(scored):
    with pytest.raises(UsageError, match=r"row 1: .*all_classes"):
        scored("longbench/trec", {"pred": "x", "answers": ["x"]})


def test_answers_as_squad_has_them_and_as_numbers(scored):
    rows = [
        {"prediction": "paris", "answers": {"text": ["Paris"], "answer_start": [3]}},
        {"prediction": "It is 7", "answers": 7},
    ]
    assert values(scored("ruler/qa_1", *rows)) == [1.0, 1.0]


texts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), min_size=1)


@given(texts)
def test_lists_come_back_however_python_or_numpy_shows_them(items):
    assert listed(str(items)) == items
    assert listed(str(np.array(items, dtype=object))) == items


@given(st.text())
def test_a_cell_is_read_or_refused(cell):
    try:
        found = listed(cell)
    except ValueError:
        return
    assert found == cell or isinstance(found, list)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prediction,prediction,answers\na,b,a\n", "the column 'prediction' is there 2 times"),
        ("prediction,answers\n", "it holds no row"),
        ("", "it holds no row"),
    ],
)
def test_a_table_that_says_nothing_or_twice_is_refused(tmp_path, text, said):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        list(score_file("jsonl:x", path))
