"""Which of several samples speaks for all of them: self-consistency.

Wang et al. 2022, arXiv:2203.11171: the answer that most samples agree on. A ballot is the bag of
words that a metric reads in a reply: one letter, one number, a class, or all words of prose. The
reply that agrees most with the others is elected, agreement being the F1 of two bags. Of ballots
of one word that is a plurality vote; of prose it is minimum Bayes risk decoding, of which the vote
is a special case (Bertsch et al. 2023, arXiv:2310.01387). The right answer is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pytest_kvbench.score.choice import stated_choice
from pytest_kvbench.score.classify import named_classes
from pytest_kvbench.score.credited import ABSTAIN, read_reply
from pytest_kvbench.score.labels import is_refusal
from pytest_kvbench.score.numbers import numbers
from pytest_kvbench.score.segment import normalised_words
from pytest_kvbench.score.text import bag_f1, first_line, normalise

Ballot = Sequence[str]
"""What a reply votes for, as a bag of words; empty: it abstains."""


def ballot(metric: str, text: str, meta: Mapping[str, Any]) -> Ballot:
    """What a reply votes for.

    It abstains where it is empty, declines, says that it does not know, or has nothing that the
    metric can read.

    Args:
        metric: a key of `METRICS`.
        text: the reply.
        meta: the example's; classes are read with `all_classes`.
    """
    return () if is_refusal(text) else _READ.get(metric, _words)(text, meta)


def elect(ballots: Sequence[Ballot]) -> int:
    """The place of the ballot that agrees most with the others.

    Of several that agree as much it is the first; where all abstain, the first of all.

    Args:
        ballots: in the order of the samples, at least one.
    """
    voters = [place for place, one in enumerate(ballots) if one]
    agreement = {
        place: sum(bag_f1(ballots[place], ballots[other]) for other in voters) for place in voters
    }
    # Sums of the same shares in another order may differ by the last digit, and that is no lead.
    return max(voters, key=lambda place: (round(agreement[place], 9), -place), default=0)


def _words(text: str, _: Mapping[str, Any]) -> Ballot:
    return normalise(text).split()


def _words_of_first_line(text: str, _: Mapping[str, Any]) -> Ballot:
    return normalise(first_line(text)).split()


def _words_zh(text: str, _: Mapping[str, Any]) -> Ballot:
    return normalised_words(text)


def _code(text: str, _: Mapping[str, Any]) -> Ballot:
    return text.split()


def _letter(text: str, _: Mapping[str, Any]) -> Ballot:
    letter = stated_choice(text)
    return (letter,) if letter else ()


def _letter_with_evidence(text: str, _: Mapping[str, Any]) -> Ballot:
    reply = read_reply(text)
    return (reply.choice,) if reply and reply.choice != ABSTAIN else ()


def _numbers(text: str, _: Mapping[str, Any]) -> Ballot:
    return numbers(text)


def _classes(text: str, meta: Mapping[str, Any]) -> Ballot:
    return named_classes(text, meta)


def _classes_of_first_line(text: str, meta: Mapping[str, Any]) -> Ballot:
    return named_classes(first_line(text), meta)


_READ: Mapping[str, Callable[[str, Mapping[str, Any]], Ballot]] = MappingProxyType(
    {
        "choice": _letter,
        "classification": _classes,
        "classification_first_line": _classes_of_first_line,
        "code_similarity": _code,
        "count": _numbers,
        "credited": _letter_with_evidence,
        "f1_first_line": _words_of_first_line,
        "f1_zh": _words_zh,
        "retrieval": _numbers,
        "retrieval_zh": _numbers,
        "rouge_l_first_line": _words_of_first_line,
        "rouge_l_zh": _words_zh,
    }
)
"""How ballots are read; of all other metrics they are the words of the whole reply."""
