"""LongMemEval and kvpress's rows: rows of the documented shapes made here."""

from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate

ROW = {
    "question_id": "a1", "question_type": "multi-session", "question": "Which dog?",
    "answer": "Rex", "question_date": "2023/06/01 (Thu) 10:00",
    "haystack_dates": ["2023/05/02 (Tue) 09:00", "2023/05/01 (Mon) 09:00"],
    "haystack_session_ids": ["s2", "s1"],
    "haystack_sessions": [
        [{"role": "user", "content": "Later.", "has_answer": True}],
        [{"role": "user", "content": "Früher."}, {"role": "assistant", "content": "Yes."}],
    ],
}  # fmt: skip


def examples(made):
    return made.examples(BinSpec(1, (9,)), Approximate(), 0)


def test_the_history_is_in_order_and_does_not_show_where_the_answer_is(tmp_path):
    others = [
        {**ROW, "question_id": "a2_abs"},
        {**ROW, "question_id": "a3", "question_type": "single-session-preference"},
        {**ROW, "question_id": "a4", "answer": 3},
    ]
    (tmp_path / "longmemeval_s.json").write_text(json.dumps([ROW, *others]))
    made = get_task("longmemeval/s", options={"path": str(tmp_path)})
    first, last = examples(made)
    assert last.answers == ("3",)
    prompt = made.prompt(first)
    assert prompt.head.endswith(
        'Chat 1, 2023/05/01 (Mon) 09:00:\n[{"role": "user", "content": "Früher."}, '
        '{"role": "assistant", "content": "Yes."}]\n\n'
        'Chat 2, 2023/05/02 (Tue) 09:00:\n[{"role": "user", "content": "Later."}]'
    )
    assert "2023/06/01" in prompt.tail
    assert "has_answer" not in prompt.text


def test_a_row_without_a_history_is_named(tmp_path):
    path = tmp_path / "longmemeval_oracle.json"
    path.write_text(json.dumps([{k: v for k, v in ROW.items() if k != "haystack_dates"}]))
    with pytest.raises(UsageError, match="row 1: 'haystack_dates'"):
        examples(get_task("longmemeval/oracle", options={"path": str(tmp_path)}))
    with pytest.raises(UsageError, match="unknown metric 'judge'"):
        get_task("longmemeval/s", options={"metric": "judge"})


KVPRESS = {"context": "Rome. ", "question": "Capital?", "answer_prefix": " It is",
           "answer": ["Rome"], "task": "cap", "max_new_tokens": 9}  # fmt: skip


def test_kvpress_rows_are_sent_as_they_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [KVPRESS, {**KVPRESS, "task": "other", "answer": "Bonn"}, {**KVPRESS, "answer": 12}]
    path.write_text("\n".join(map(json.dumps, rows)))
    made = get_task(f"kvpress:{path}")
    first, second, third = examples(made)
    prompt = made.prompt(first)
    assert (prompt.head, prompt.tail, prompt.max_tokens) == ("Rome. ", "Capital? It is", 9)
    assert (second.answers, third.answers) == (("Bonn",), ("12",))
    made = get_task(f"kvpress:{path}", options={"task": "cap", "max_tokens": 3, "chat": False})
    assert len(examples(made)) == 2
    assert made.prompt(first).max_tokens == 3
    assert not made.prompt(first).chat
    with pytest.raises(UsageError, match="no row of task 'none'"):
        examples(get_task(f"kvpress:{path}", options={"task": "none"}))


def test_a_kvpress_row_that_lacks_something_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"context": "x", "question": "y"}))
    with pytest.raises(UsageError, match="row 1: answers are missing"):
        examples(get_task(f"kvpress:{path}"))
    path.write_text(json.dumps(KVPRESS))
    with pytest.raises(UsageError, match="needs labels"):
        examples(get_task(f"kvpress:{path}", options={"metric": "one_label"}))
