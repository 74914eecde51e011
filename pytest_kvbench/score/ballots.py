"""What a metric reads in a reply as its vote: a bag of words, empty where it abstains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_kvbench.records import Meta
from pytest_kvbench.score.choice import stated_choice
from pytest_kvbench.score.classify import named_classes
from pytest_kvbench.score.credited import ABSTAIN, read_reply
from pytest_kvbench.score.numbers import numbers
from pytest_kvbench.score.segment import normalised_words
from pytest_kvbench.score.text import first_line, normalise

Ballot = Sequence[str]
"""What a reply votes for, as a bag of words; empty: it abstains."""
BallotReader = Callable[[str, Meta], Ballot]
"""The ballot of a reply, given its example's `meta`."""


def on_first_line(read: BallotReader) -> BallotReader:
    """`read` of the reply's first line alone."""

    def read_first_line(text: str, meta: Meta) -> Ballot:
        return read(first_line(text), meta)

    return read_first_line


def words(text: str, _: Meta) -> Ballot:
    """The ballot of a text: all its words, as SQuAD compares them."""
    return normalise(text).split()


def words_zh(text: str, _: Meta) -> Ballot:
    """All Chinese words, as LongBench cuts them."""
    return normalised_words(text)


def code(text: str, _: Meta) -> Ballot:
    """What blanks separate, as it is written."""
    return text.split()


def letter(text: str, _: Meta) -> Ballot:
    """The letter of "The correct answer is (B)"."""
    stated = stated_choice(text)
    return (stated,) if stated else ()


def letter_with_evidence(text: str, _: Meta) -> Ballot:
    """The letter of a JSON reply that brings quotes; "IDK" is no vote."""
    reply = read_reply(text)
    return (reply.choice,) if reply and reply.choice != ABSTAIN else ()


def all_numbers(text: str, _: Meta) -> Ballot:
    """The ballot of a count: every number in the reply, in order."""
    return numbers(text)


def classes(text: str, meta: Meta) -> Ballot:
    """The classes of `all_classes` that are named."""
    return named_classes(text, meta)
