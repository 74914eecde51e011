from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.credited import evidence_scores, read_reply
from pytest_kvbench.score.metric import score_answer

CONTEXT = "The red barge\n left Bremen at dawn. A blue ferry stayed in Lisbon harbour all winter."
META = {
    "context": CONTEXT,
    "options": ["The red barge left at dawn", "A blue ferry stayed", "Nobody moved", "It snowed"],
}


def reply(choice, *quotes):
    return json.dumps({"choice": choice, "quotes": list(quotes)})


def judged(choice, *quotes, gold="A", **more):
    return evidence_scores(reply(choice, *quotes), [gold], {**META, **more})


def test_right_with_evidence_is_credited():
    scores = judged("A", "The red barge left Bremen at dawn.")
    assert scores.credited
    assert (scores.correct, scores.cited, scores.witness, scores.coverage) == (True, True, "A", 1.0)
    assert scores.card_cited is None


@pytest.mark.parametrize(
    "quotes",
    [
        (),
        ("The red barge left Hamburg at dawn.",),
        ("",),
        ("at dawn.",),
        ("A blue ferry stayed in Lisbon",),
        ("The red barge left Bremen at dawn. A blue ferry",),
    ],
    ids=["none", "invented", "empty", "too little", "another option's", "not verbatim"],
)
def test_right_without_evidence_is_correct_but_not_credited(quotes):
    if quotes == ("The red barge left Bremen at dawn. A blue ferry",):
        quotes = (quotes[0].replace("dawn. A", "dawn, a"),)
    scores = judged("A", *quotes)
    assert (scores.correct, scores.credited) == (True, False)


def test_a_wrong_answer_is_never_credited_and_its_evidence_is_told():
    scores = judged("B", "A blue ferry stayed in Lisbon", gold="A")
    assert (scores.correct, scores.credited, scores.witness_pass) == (False, False, True)
    assert scores.coverage == 1.0
    assert scores.coverage_gold == 0.0


def test_the_threshold_decides():
    quote = "The red barge"
    assert judged("A", quote).coverage == pytest.approx(2 / 5)
    assert not judged("A", quote).credited
    assert judged("A", quote, tau=0.4).credited


def test_support_replaces_the_options_text():
    support = ["Bremen", "Lisbon harbour", "Paris", "snow"]
    scores = judged("A", "left Bremen", support=support)
    assert (scores.coverage, scores.witness, scores.credited) == (1.0, "A", True)


def test_quotes_for_two_options_alike_have_no_witness():
    whole = "The red barge left Bremen at dawn. A blue ferry stayed in Lisbon harbour all winter."
    scores = judged("A", whole)
    assert (scores.coverage, scores.witness, scores.credited) == (1.0, None, False)


def test_abstaining_is_no_guess_and_no_format_error():
    scores = judged("IDK")
    assert (scores.abstained, scores.readable, scores.correct, scores.credited) == (
        True, True, False, False,
    )  # fmt: skip
    score = score_answer("credited", reply("IDK"), "stop", ["A"], META)
    assert (score.value, score.em, score.label) == (0.0, 0.0, "")


CARDS = {"cards": ["The red barge left", "A blue ferry", "Nobody", "It snowed"]}
PROOF = "The red barge left Bremen at dawn."


@pytest.mark.parametrize(
    ("quotes", "card_cited", "credited"),
    [
        (("The red  barge left", PROOF), True, True),
        ((PROOF, "The red barge left"), False, False),
        (("A blue ferry", PROOF), False, False),
        (("The red barge left",), True, False),
        ((), False, False),
    ],
    ids=["card first", "card last", "another card", "card alone proves nothing", "nothing"],
)
def test_the_card_must_come_first_and_counts_for_nothing_else(quotes, card_cited, credited):
    scores = judged("A", *quotes, **CARDS)
    assert (scores.card_cited, scores.credited) == (card_cited, credited)


SENTENCES = ["The barge left Bremen.", "Two cats slept.", "It rained.", "湖水平静."]


@given(
    st.permutations(SENTENCES),
    st.sampled_from("ABCD"),
    st.sampled_from(["support", "options"]),
    st.sampled_from([" ", "\n", "  \n "]),
    st.booleans(),
)
def test_the_sentence_quoted_after_a_card_of_the_same_words_is_proof(
    cards, choice, proof, gap, with_all
):
    """Cards that are sentences of the text, as a data set's own support often is."""
    card = cards["ABCD".index(choice)]
    meta = {"context": gap.join(sorted(SENTENCES)), "options": ["u", "v", "w", "x"], "cards": cards}
    meta |= {proof: cards}
    scores = evidence_scores(reply(choice, card, card.replace(" ", gap)), [choice], meta)
    assert scores.credited
    assert (scores.coverage, scores.card_cited, scores.witness) == (1.0, True, choice)
    alone = evidence_scores(reply(choice, card), [choice], meta)
    assert (alone.correct, alone.card_cited, alone.credited) == (True, True, False)
    others = [other for other in cards if other != card]
    wrong = others if with_all else others[:1]  # the proof of another option is none of this one
    assert not evidence_scores(reply(choice, card, *wrong), [choice], meta).credited


def test_a_card_cut_short_proves_nothing_however_often_it_is_cited():
    assert not judged("A", "The red barge left", "The red barge left", **CARDS).credited


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ('{"choice": "B", "quotes": []}', "B"),
        ('Sure!\n```json\n{"choice": "(c)", "quotes": ["x"]}\n```', "C"),
        ('{"note": {}} {"choice": "idk"}', "IDK"),
        ('{"choice": "A", "quotes": "one text"}', "A"),
        ('{"choice": "E"}', None),
        ('{"choice": "A", "quotes": [1]}', None),
        ('{"choice": "A"', None),
        ("The correct answer is (A)", None),
        ("", None),
        ("[" * 100, None),
    ],
)
def test_reading(text, choice):
    found = read_reply(text)
    assert (found and found.choice) == choice


def test_an_unreadable_reply_is_a_format_error_and_accuracy_stands_beside_credit():
    score = score_answer("credited", "B, I think", "stop", ["B"], META)
    assert (score.value, score.em, score.label) == (0.0, 0.0, "FORMAT_ERROR")
    meta = {key: META[key] for key in ("options",)}
    score = score_answer("credited", reply("A", "invented"), "stop", ["A"], meta, CONTEXT)
    assert (score.value, score.em, score.label) == (0.0, 1.0, "")


def test_without_the_context_it_refuses_to_judge():
    with pytest.raises(UsageError, match="context"):
        score_answer("credited", reply("A", "x"), "stop", ["A"], {"options": META["options"]})


quotes = st.lists(st.sampled_from([*CONTEXT.split(". "), PROOF, "invented", ""]), max_size=4)


@given(st.sampled_from(["A", "B", "C", "D"]), quotes, st.sampled_from(["A", "B"]))
def test_credit_implies_all_its_parts(choice, cited, gold):
    scores = judged(choice, *cited, gold=gold)
    assert 0 <= scores.coverage <= 1
    if scores.credited:
        assert scores.correct
        assert scores.cited
        assert scores.witness_pass
        assert scores.coverage >= 0.5


def test_every_part_of_the_score_is_kept():
    right = score_answer("credited", reply("A", "The red barge left Bremen"), "stop", ["A"], META)
    assert right.parts["credited"] == right.parts["correct"] == right.parts["witness_pass"] == 1
    assert right.parts["abstained"] == 0
    assert "card_cited" not in right.parts  # there are no cards
    unsure = score_answer("credited", reply("IDK"), "stop", ["A"], META)
    assert (unsure.parts["abstained"], unsure.parts["correct"]) == (1, 0)
    assert score_answer("any_of", "Ada", "stop", ["Ada"], {}).parts == {}
