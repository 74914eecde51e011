"""LongBench's metrics against what the authors' own code gave (benchmarks/longbench_scores)."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.code import longest_common
from pytest_kvbench.score.metric import METRICS
from pytest_kvbench.score.rouge import Lengths
from pytest_kvbench.score.segment import normalise_zh, words

DATA = Path(__file__).parent / "data" / "longbench_scores.jsonl.gz"


def recorded():
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_scores_agree_with_the_authors_implementation(step):
    """One case in four at every change: all take nine seconds."""
    cases = recorded()
    for case in cases[::step]:
        measure = METRICS[case["metric"]].score
        score = measure(case["prediction"], case["answers"], {"all_classes": case["all_classes"]})
        assert score == pytest.approx(case["score"], abs=1e-9), case
    counts = Counter(case["metric"] for case in cases)
    assert len(counts) == 9
    assert min(counts.values()) >= 500
    assert any(not case["prediction"] for case in cases)
    assert any(len(case["answers"]) > 1 for case in cases)


LONG_NAMES = ["location", "Other location", "Other"]


@pytest.mark.parametrize(
    ("named", "classes", "score"),
    [
        # "Other location" contains the two others. Removing "location" while iterating skips
        # "Other location", then "Other" goes too: one class is left.
        ("Other location", ["location", "Other location", "Other"], 1.0),
        # Removing "location" skips "Other", which stays and halves the score.
        ("Other location", ["location", "Other", "Other location"], 0.5),
        ("City", ["City", "Country"], 1.0),
        ("City, Country", ["City", "Country"], 0.5),
        ("nothing", ["City", "Country"], 0.0),
    ],
)
def test_the_list_bug_of_the_classification_score_is_kept(named, classes, score):
    answer = "City" if "City" in classes else "Other location"
    given = list(classes)
    assert METRICS["classification"].score(named, [answer], {"all_classes": given}) == score
    assert given == classes, "a metric does not change its arguments"


def test_classification_without_classes_says_what_is_missing():
    with pytest.raises(UsageError, match="all_classes"):
        METRICS["classification"].score("City", ["City"], {"all_classes": None})


def test_retrieval_needs_a_numbered_answer():
    with pytest.raises(UsageError, match="Paragraph"):
        METRICS["retrieval"].score("7", ["7"], {})


@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "score"),
    [
        ("f1_first_line", "\n\nParis\nand more words", ["Paris"], 1.0),
        ("f1", "\n\nParis\nand more words", ["Paris"], 0.4),
        ("rouge_l_first_line", "they meet\nDialogue", ["they meet"], pytest.approx(1, abs=1e-6)),
        ("code_similarity", "```python\n# note\nx = 1\ny = 2", ["x = 1"], 1.0),
        ("code_similarity", "```", ["x = 1"], 0.0),
        ("code_similarity", "self.assertEqual(a, b)", ["print(f'{x}')"], 0.11),
        ("code_similarity_levenshtein", "self.assertEqual(a, b)", ["print(f'{x}')"], 0.23),
        ("code_similarity_levenshtein", "```python\n# note\nx = 1\ny = 2", ["x = 1"], 1.0),
        ("code_similarity_levenshtein", "```", ["x = 1"], 0.0),
        ("f1_zh", "北京！", ["北京"], 1.0),
        ("rouge_l", "", ["anything"], 0.0),
        ("rouge_l", "...", ["anything"], 0.0),
    ],
)
def test_single_cases(metric, prediction, answers, score):
    assert METRICS[metric].score(prediction, answers, {}) == score


def test_the_first_line_rule_of_classification():
    meta = {"all_classes": ["City", "Country"]}
    assert METRICS["classification_first_line"].score("City\nCountry", ["City"], meta) == 1.0
    assert METRICS["classification"].score("City\nCountry", ["City"], meta) == 0.5


def test_rouge_does_not_depend_on_how_deep_its_caller_is():
    # 900 words together: the package recurses about 900 deep, near Python's limit of 1000.
    text = " ".join(f"w{i}" for i in range(450))
    other = " ".join(f"v{i}" for i in range(440)) + " w1"
    shallow = METRICS["rouge_l"].score(text, [other], {})
    assert shallow > 0

    def deep(n):
        return METRICS["rouge_l"].score(text, [other], {}) if n == 0 else deep(n - 1)

    assert deep(400) == shallow


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d."]), max_size=30)


@given(WORDS, WORDS)
def test_rouge_has_the_same_table_as_its_package(x: list[str], y: list[str]) -> None:
    table = Lengths(x, y)
    for i, j in itertools.product(range(len(x) + 1), range(len(y) + 1)):
        if i == 0 or j == 0:
            expected = 0
        elif x[i - 1] == y[j - 1]:
            expected = table[i - 1, j - 1] + 1
        else:
            expected = max(table[i - 1, j], table[i, j - 1])
        assert table[i, j] == expected


def test_a_reply_of_any_length_is_compared_in_little_memory() -> None:
    """A server may say more than it was asked for; the words that count stand at its end."""
    words = [f"w{n}" for n in range(300)]
    tracemalloc.start()
    try:
        said = METRICS["rouge_l"].score(" ".join(["so"] * 3000 + words), [" ".join(words)], {})
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
    assert said == pytest.approx(2 / (301 / 300 + 1), abs=1e-6)


def test_rouge_of_endless_sentences_is_zero_as_upstream():
    text = " ".join(f"w{i}" for i in range(700))
    assert METRICS["rouge_l"].score(text, [text[::-1]], {}) == 0.0


def test_chinese_scores_are_the_same_from_many_threads():
    expected = METRICS["rouge_l_zh"].score("北京大学是高等学府", ["北京大学"], {})
    results = []

    def score():
        results.append(METRICS["rouge_l_zh"].score("北京大学是高等学府", ["北京大学"], {}))

    threads = [threading.Thread(target=score) for _ in range(4)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert results == [expected] * 4


chinese = st.text(alphabet="北京大学，。！ABC 12\n《》", max_size=40)


@given(chinese)
def test_segmentation_loses_nothing(text):
    assert "".join(words(text)) == text


@given(chinese)
def test_normalised_chinese_has_no_signs_or_blanks(text):
    result = normalise_zh(text)
    assert not set(result) & set("，。！ \n》")
    assert normalise_zh(result) == result
    assert ("《" in text) == ("《" in result), "upstream's list has no U+300A"


@given(st.sampled_from(["f1_zh", "rouge_l", "rouge_l_zh", "code_similarity"]), chinese, chinese)
def test_scores_stay_between_zero_and_one_and_a_copy_is_nearly_perfect(metric, one, other):
    assert 0.0 <= METRICS[metric].score(one, [other], {}) <= 1.0
    assert METRICS[metric].score("北京 x = 1", ["北京 x = 1"], {}) == pytest.approx(1, abs=1e-6)


def table_of(one, other):
    """The longest common subsequence by the textbook's table."""
    row = [0] * (len(other) + 1)
    for a in one:
        last, row = row, [0]
        for i, b in enumerate(other):
            row.append(last[i] + 1 if a == b else max(row[i], last[i + 1]))
    return row[-1]


@given(st.text("abcx=1 (", max_size=90), st.text("abcx=1 (", max_size=90))
def test_insertions_and_deletions_are_counted_as_the_table_counts_them(one, other):
    assert longest_common(one, other) == longest_common(other, one) == table_of(one, other)


def test_the_metrics_of_code_say_whose_arithmetic_they_are():
    assert METRICS["code_similarity"].backend == "difflib"
    assert "Levenshtein" in METRICS["code_similarity_levenshtein"].backend
