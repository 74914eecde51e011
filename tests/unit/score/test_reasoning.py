"""Thoughts in a reply are no answer, in the marks of every family; an answer is left as it is."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.records import ReasoningRule
from pytest_kvbench.score.metric import score_answer
from pytest_kvbench.score.reasoning import SplitReply, split
from pytest_kvbench.score.vote import ballot

MARKED = [
    "<think>{}</think>{}",
    "<think>\n{}\n</think>\n\n{}",
    "<THINK>{}</THINK>{}",
    "{}</think>\n{}",  # the template wrote the opening mark
    "<thinking>{}</thinking> {}",
    "<thought>{}</thought>{}",
    "<reasoning>{}</reasoning>\n{}",
    "<seed:think>{}</seed:think>{}",
    "[THINK]{}[/THINK]{}",
    "<longcat_think>{}</longcat_think>{}",
    "<Redacted_Thinking>\n{}</redacted_thinking>\n{}",
    "<inner-thoughts>{}</inner-thoughts>{}",
    "◁think▷{}◁/think▷{}",
    "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "<|begin_of_thought|>{}<|end_of_thought|>\n<|begin_of_solution|>{}<|end_of_solution|>",
    "<think>{}</think><answer>{}</answer>",
    "<think>{}</think>\n<response>{}</response>",
    "<|inner_prefix|>{}<|inner_suffix|>{}",
    "<|channel>thought\n{}<channel|>{}",
    "Here is my thought process: {} Here is my response: {}",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "analysis{}assistantfinal{}",
]
UNFINISHED = [
    "<think>{}",
    "<longcat_think>{}",
    "[THINK]{}",
    "<|channel|>analysis<|message|>{}",
    "analysisWe see {}",
]
PLAIN = st.text(st.characters(exclude_characters="<>[]◁▷|", codec="utf-8"), max_size=30)


@pytest.mark.parametrize("marked", MARKED)
def test_only_what_follows_the_thoughts_is_scored(marked: str) -> None:
    text = marked.format("It is B or 7. No: C.", "The correct answer is (A)")
    assert split(text) == SplitReply("The correct answer is (A)", True)
    options = {"options": {"A": "one", "B": "two", "C": "three"}}
    assert score_answer("choice", text, "stop", ["A"], options).value == 1
    assert score_answer("choice", text, "stop", ["C"], options).value == 0
    assert ballot("choice", text, options) == ballot("choice", "The correct answer is (A)", options)


@pytest.mark.parametrize("marked", UNFINISHED)
@pytest.mark.parametrize("reason", ["length", "stop"])
def test_thoughts_without_an_end_are_cut_off(marked: str, reason: str) -> None:
    score = score_answer("any_of", marked.format("the word is gold"), reason, ["gold"], {})
    assert (score.value, score.label) == (0.0, "TRUNCATED")


def test_what_is_said_around_thoughts_is_kept() -> None:
    assert split("Sure. <think>B? <think> C?</think>It is A.").answer == "Sure. It is A."
    assert split("<think>1</think>a<think>2</think>b").answer == "ab"


@pytest.mark.parametrize("mark", ["<think>", "[THINK]", "<reasoning>"])
def test_a_mark_in_mid_sentence_is_a_word(mark: str) -> None:
    text = f"The tag {mark} is not needed: gold"
    assert split(text) == SplitReply(text)
    after = f"{mark}1{mark.replace('<', '</').replace('[', '[/')}{text}"
    assert split(after) == SplitReply(text, True)
    assert not split(f"\n {mark}gold").is_finished


@given(PLAIN)
def test_a_reply_without_marks_is_left_as_it_is(text: str) -> None:
    assert split(text).answer == text or text.startswith(("analysis", "Here is my"))


@pytest.mark.parametrize(
    "text", ["analysis: the word is gold", "Here is my response: gold", "a < b > c [1]", "thinking"]
)
def test_words_alone_are_no_thoughts(text: str) -> None:
    assert split(text) == SplitReply(text)


@given(st.sampled_from(MARKED), PLAIN, PLAIN)
def test_thoughts_and_answer_never_mix(marked: str, thought: str, answer: str) -> None:
    assert split(marked.format(thought, answer)).answer == answer.strip()


@pytest.mark.parametrize("rule", get_args(ReasoningRule))
def test_the_rule_decides(rule: ReasoningRule) -> None:
    def found(text: str, apart: str = "") -> tuple[float, str]:
        score = score_answer("any_of", text, "stop", ["gold"], {}, rule=rule, reasoning=apart)
        return score.value, score.label

    assert found("gold") == (1.0, "")
    fails = (0.0, "FORMAT_ERROR")
    assert found("gold", "let me see") == (fails if rule == "fail" else (1.0, ""))
    assert found("<think>let me see</think>gold") == (fails if rule == "fail" else (1.0, ""))
    wrong = {"strip": (0.0, ""), "keep": (1.0, ""), "fail": fails}
    assert found("<think>gold?</think>lead") == wrong[rule]


def test_who_thought_until_the_end_in_a_field_of_its_own_never_answered() -> None:
    score = score_answer("any_of", "", "length", ["gold"], {}, reasoning="let me see")
    assert score.label == "TRUNCATED"
