"""What a metric makes of a reply: one family of metrics a file, all they need in one table here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pytest_kvbench.errors import UsageError
from pytest_kvbench.extras import need
from pytest_kvbench.records import Meta, ReasoningRule, Score
from pytest_kvbench.score import ballots, infinitebench
from pytest_kvbench.score.babilong import check_labels, one_label
from pytest_kvbench.score.ballots import BallotReader
from pytest_kvbench.score.choice import among_options, choice, right_choice, states_choice
from pytest_kvbench.score.classify import classes_of, classification
from pytest_kvbench.score.code import code_similarity, code_similarity_levenshtein
from pytest_kvbench.score.contain import all_of, any_of
from pytest_kvbench.score.credited import (
    check_options,
    credited,
    evidence_parts,
    is_readable,
    right_and_readable,
)
from pytest_kvbench.score.labels import label_of
from pytest_kvbench.score.maths import (
    box_ballot,
    boxed,
    has_box,
    has_result,
    last_number,
    result_ballot,
)
from pytest_kvbench.score.numbers import count, has_number, retrieval, retrieval_zh
from pytest_kvbench.score.reasoning import SplitReply, split
from pytest_kvbench.score.rouge import rouge_l, rouge_l_zh
from pytest_kvbench.score.rouge_sum import rouge_l_sum
from pytest_kvbench.score.segment import f1_zh
from pytest_kvbench.score.text import exact_match, f1, first_line

Measure = Callable[[str, Sequence[str], Meta], float]
"""A score in [0, 1] of a reply, given the accepted answers and the example's `meta`."""
Reader = Callable[[str, Meta], bool]
Parts = Callable[[str, Sequence[str], Meta], Mapping[str, float]]
Needs = Callable[[Meta], object]


def _anything(_text: str, _meta: Meta) -> bool:
    return True


def _no_parts(_text: str, _answers: Sequence[str], _meta: Meta) -> dict[str, float]:
    return {}


def _nothing(_meta: Meta) -> None:
    return None


def _no_chance(_meta: Meta) -> float:
    return 0.0


@dataclass(frozen=True)
class Metric:
    """All facts of one metric. Its functions never change their arguments.

    Attributes:
        name: as tasks give it.
        score: the score of a reply, in [0, 1].
        em: what `Score.em` is; where nothing else is said, the exact match of the whole reply.
        is_readable: whether a reply has the format that is needed.
        parts: parts of the score that are worth a look of their own, by name.
        ballot: what a reply votes for, where several samples make one answer.
        chance: the score of guessing, in [0, 1], given an example's `meta`.
        needs: raises a `UsageError` where an example's `meta` lacks what scoring needs.
        backend: the package that computes it, where the benchmark leaves that to the machine.
        packages: what must be installed for it, by import names.
    """

    name: str
    score: Measure
    em: Measure = exact_match
    is_readable: Reader = _anything
    parts: Parts = _no_parts
    ballot: BallotReader = ballots.words
    chance: Callable[[Meta], float] = _no_chance
    needs: Needs = _nothing
    backend: str = ""
    packages: tuple[str, ...] = ()


def on_first_line(measure: Measure) -> Measure:
    """`measure` of the reply's first line alone."""

    def measure_first_line(prediction: str, answers: Sequence[str], meta: Meta) -> float:
        return measure(first_line(prediction), answers, meta)

    return measure_first_line


_EM_FIRST_LINE = on_first_line(exact_match)
_WORDS_FIRST_LINE = ballots.on_first_line(ballots.words)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("all_of", all_of),
            Metric("any_of", any_of),
            Metric(
                "choice",
                choice,
                em=right_choice,
                is_readable=states_choice,
                ballot=ballots.letter,
                chance=among_options,
            ),
            Metric("classification", classification, ballot=ballots.classes, needs=classes_of),
            Metric(
                "classification_first_line",
                on_first_line(classification),
                em=_EM_FIRST_LINE,
                ballot=ballots.on_first_line(ballots.classes),
                needs=classes_of,
            ),
            Metric("code_similarity", code_similarity, ballot=ballots.code, backend="difflib"),
            Metric(
                "code_similarity_levenshtein",
                code_similarity_levenshtein,
                ballot=ballots.code,
                backend="python-Levenshtein's ratio",
            ),
            Metric("count", count, is_readable=has_number, ballot=ballots.all_numbers),
            Metric(
                "credited",
                credited,
                em=right_and_readable,
                is_readable=is_readable,
                parts=evidence_parts,
                ballot=ballots.letter_with_evidence,
                chance=among_options,
                needs=check_options,
            ),
            Metric("boxed", boxed, is_readable=has_box, ballot=box_ballot),
            Metric("exact_match", exact_match),
            Metric("f1", f1),
            Metric("f1_first_line", on_first_line(f1), _EM_FIRST_LINE, ballot=_WORDS_FIRST_LINE),
            Metric("f1_characters", infinitebench.f1_characters, ballot=ballots.words_zh),
            Metric("f1_zh", f1_zh, ballot=ballots.words_zh, packages=("jieba",)),
            Metric("first_digits", infinitebench.first_digits),
            Metric("first_number", infinitebench.first_number),
            Metric("last_number", last_number, is_readable=has_result, ballot=result_ballot),
            Metric("last_word_as_number", infinitebench.last_word_as_number),
            Metric("numbers_in_order", infinitebench.numbers_in_order),
            Metric("one_label", one_label, needs=check_labels),
            Metric("option", infinitebench.option, chance=among_options),
            Metric("option_of_code", infinitebench.option_of_code, chance=among_options),
            Metric("retrieval", retrieval, is_readable=has_number, ballot=ballots.all_numbers),
            Metric(
                "retrieval_zh", retrieval_zh, is_readable=has_number, ballot=ballots.all_numbers
            ),
            Metric("rouge_l", rouge_l, packages=("rouge",)),
            Metric(
                "rouge_l_first_line",
                on_first_line(rouge_l),
                _EM_FIRST_LINE,
                ballot=_WORDS_FIRST_LINE,
                packages=("rouge",),
            ),
            Metric(
                "rouge_l_zh",
                rouge_l_zh,
                ballot=ballots.words_zh,
                packages=("jieba", "rouge"),
            ),
            Metric("rouge_l_sum", rouge_l_sum),
            Metric("word_in_capitals", infinitebench.word_in_capitals),
            Metric("word_of", infinitebench.word_of),
        )
    }
)
"""By name."""


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: no metric has that name; the message names all.
    """
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r}", f"valid: {', '.join(sorted(METRICS))}")
    return METRICS[name]


def check_installed(name: str) -> None:
    """Refuse a metric whose packages are not installed.

    Raises:
        UsageError: an unknown metric, or one without its packages; with what brings them.
    """
    need(get_metric(name).packages, f"the metric {name}")


def backend_of(name: str) -> str:
    """The package that computes a metric; "" where the benchmark fixes it, or none is known."""
    return METRICS[name].backend if name in METRICS else ""


def check_meta(metric: str, meta: Meta) -> None:
    """Refuse an example that a metric could not score, before anything is asked.

    Raises:
        UsageError: an unknown metric.
        ValueError: what the metric needs is missing, or of another kind.
    """
    needs = get_metric(metric).needs
    try:
        needs(meta)
    except UsageError as error:
        raise ValueError(error.what) from error


def score_answer(
    metric: str,
    text: str,
    finish_reason: str,
    answers: Sequence[str],
    meta: Meta,
    context: str | None = None,
    *,
    rule: ReasoningRule = "strip",
    reasoning: str = "",
) -> Score:
    """Score one reply.

    Args:
        metric: a key of `METRICS`.
        text: the reply.
        finish_reason: `stop` or `length`.
        answers: the accepted references.
        meta: the example's; some metrics need it (`all_classes`).
        context: the example's; metrics that look quotes up (`credited`) cannot do without.
        rule: what becomes of thoughts in the text: `strip` scores what is left without them,
            `keep` the whole, `fail` gives a reply that thinks 0 and the label FORMAT_ERROR.
        reasoning: thoughts that the server kept apart.

    Raises:
        UsageError: an unknown metric, or one that lacks what it needs.
    """
    check_installed(metric)
    found = get_metric(metric)
    example_meta = meta if context is None else {**meta, "context": context}
    reply = SplitReply(text) if rule == "keep" else split(text)
    if rule == "fail" and (reply.has_thoughts or reasoning):
        parts = dict.fromkeys(found.parts(reply.answer, answers, example_meta), 0.0)
        return Score(0.0, 0.0, "FORMAT_ERROR", parts)
    answer = reply.answer
    never_answered = bool(reasoning) and finish_reason == "length" and not answer.strip()
    return Score(
        value=found.score(answer, answers, example_meta),
        em=found.em(answer, answers, example_meta),
        label=label_of(
            answer,
            finish_reason,
            readable=found.is_readable(answer, example_meta),
            is_finished=reply.is_finished and not never_answered,
        ),
        parts=found.parts(answer, answers, example_meta),
    )
