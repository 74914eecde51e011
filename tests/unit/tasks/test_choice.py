"""Multiple choice: LongBench v2 and evidence/mcq."""

from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.metric import score_answer
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate

TOKENIZER = Approximate()
ONE = BinSpec(1, (5,))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("KVBENCH_LONGBENCH2", "KVBENCH_MCQ"):
        monkeypatch.delenv(variable, raising=False)


def row(i, **more):
    return {
        "_id": str(i), "domain": "d", "difficulty": ["easy", "hard"][i % 2],
        "length": ["short", "medium", "long"][i % 3], "question": f" Which {i}? ",
        "choice_A": "red ", "choice_B": "blue", "choice_C": "green", "choice_D": "grey",
        "answer": "B", "context": f" The sky {i} was blue. " * 30, **more,
    }  # fmt: skip


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row(i) for i in range(6)]))
    return path


def load(name, path, **options):
    task = get_task(name, options={"path": str(path), **options})
    return task, task.examples(ONE, TOKENIZER, 0)


@pytest.mark.parametrize(
    ("subset", "ids"),
    [
        ("all", "012345"), ("easy", "024"), ("hard", "135"), ("short", "03"), ("medium", "14"),
        ("long", "25"), ("no-context", "012345"),
    ],
)  # fmt: skip
def test_subsets(data, subset, ids):
    _, examples = load(f"longbench2/{subset}", data)
    assert "".join(e.meta["_id"] for e in examples) == ids


def test_prompts_in_our_wording_and_upstreams_extraction_fit_together(data):
    task, examples = load("longbench2/all", data)
    prompt = task.prompt(examples[0])
    assert prompt.head.endswith("The sky 0 was blue.")
    assert "Which 0?" in prompt.tail
    assert "(A) red\n(B) blue" in prompt.tail
    assert prompt.max_tokens == 128
    asked_for = prompt.tail[prompt.tail.rindex("The correct answer") :]
    assert score_answer(task.metric, asked_for, "stop", ["A"], examples[0].meta).value == 1.0
    assert task.template_version.startswith("own-")


def test_the_floor_arm_sees_no_document(data):
    task, examples = load("longbench2/no-context", data)
    prompt = task.prompt(examples[0])
    assert prompt.head == ""
    assert "sky" not in prompt.text
    assert "(B) blue" in prompt.tail


def test_upstreams_prompts_beside_the_data_win(data):
    folder = data.parent / "prompts"
    folder.mkdir()
    (folder / "0shot.txt").write_text("<text>\n$DOC$\n</text>\n$Q$|$C_A$|$C_B$|$C_C$|$C_D$")
    task, examples = load("longbench2/all", data.parent)
    prompt = task.prompt(examples[0])
    assert prompt.text == "<text>\n" + ("The sky 0 was blue.  " * 30).strip() + (
        "\n</text>\nWhich 0?|red|blue|green|grey"
    )
    assert task.template_version.startswith("official-")


def test_compensation_travels_with_the_example(data):
    task, examples = load("longbench2/all", data, compensated=True)
    assert score_answer(task.metric, "hm", "stop", ["B"], examples[0].meta).value == 0.25


def test_long_documents_are_cut(data):
    task, examples = load("longbench2/all", data, max_length=100)
    text = task.prompt(examples[0]).text
    assert TOKENIZER.count([text])[0] == 100
    assert text.endswith('"The correct answer is (A)".')


def test_rows_that_are_no_question_are_named(data):
    data.write_text(json.dumps([row(0), row(1, answer="E")]))
    with pytest.raises(UsageError, match="row 2: answer 'E'") as caught:
        load("longbench2/all", data)
    assert len(str(caught.value).splitlines()) == 2
    data.write_text('[{"question": "q"}]')
    with pytest.raises(UsageError, match="choice_A"):
        load("evidence/mcq", data)
    data.write_text(json.dumps([row(0, question=7)]))
    with pytest.raises(UsageError, match="row 1: question is 7, not a text"):
        load("longbench2/all", data)


def test_without_data_both_say_what_to_do():
    for name, variable in [("longbench2/all", "LONGBENCH2"), ("evidence/mcq", "KVBENCH_MCQ")]:
        with pytest.raises(UsageError, match=variable):
            get_task(name).examples(ONE, TOKENIZER, 0)


def test_evidence_reads_jsonl_with_choices_as_a_list_too(tmp_path):
    path = tmp_path / "mcq.jsonl"
    path.write_text(json.dumps({
        "question": "Which?", "context": "It is blue.", "answer": "B",
        "choices": ["red", "blue", "green", "grey"], "support": ["r", "It is blue", "g", "y"],
    }))  # fmt: skip
    task, (example,) = load("evidence/mcq", path)
    assert example.answers == ("B",)
    assert example.meta["support"][1] == "It is blue"
    said = '{"choice": "B", "quotes": ["It is blue."]}'
    score = score_answer(task.metric, said, "stop", example.answers, example.meta, example.context)
    assert (score.value, score.em) == (1.0, 1.0)


def test_evidence_prompt(data):
    task, examples = load("evidence/mcq", data)
    prompt = task.prompt(examples[0])
    assert prompt.head.endswith(examples[0].context)
    assert prompt.tail.lstrip().startswith("Question: Which 0?")
    assert '{"choice": "A", "quotes": ["..."]}' in prompt.tail
    assert "Cards:" not in prompt.text
    assert "card" not in prompt.tail


def test_cards_are_short_come_first_and_survive_the_cut(tmp_path):
    path = tmp_path / "mcq.jsonl"
    long_option = (
        "a very long option with many more words than any card could ever hold in full now"
    )
    path.write_text(json.dumps(row(0, choice_A=long_option, choice_B="blue")) + "\n")
    task, (example,) = load("evidence/mcq", path, cards=True, max_length=200)
    cards = example.meta["cards"]
    assert TOKENIZER.count(cards) == [15, 1, 1, 1]
    assert long_option.startswith(cards[0])
    prompt = task.prompt(example)
    assert prompt.head.startswith(f"Cards:\n(A) {cards[0]}\n(B) blue\n")
    assert "first quote must be the card" in prompt.tail
    assert TOKENIZER.count([prompt.text])[0] == 200


def test_given_cards_are_kept(tmp_path):
    path = tmp_path / "mcq.jsonl"
    given = {"A": "card a", "B": "card b", "C": "card c", "D": "card d"}
    path.write_text(json.dumps(row(0, cards=given)))
    assert load("evidence/mcq", path, cards=True)[1][0].meta["cards"] == list(given.values())
    assert "cards" not in load("evidence/mcq", path)[1][0].meta


def test_questions_without_a_context_are_independent_unless_a_row_says_otherwise(tmp_path):
    row = {"answer": "B", "choices": ["red", "blue", "green", "grey"]}
    bare = [row | {"question": f"Which {n}?"} for n in range(4)]
    named = [one | {"cluster": "a page"} for one in bare]
    for rows, clusters in ((bare, 4), (named, 1)):
        path = tmp_path / "mcq.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        _, examples = load("evidence/mcq", path)
        assert len({example.cluster for example in examples}) == clusters
