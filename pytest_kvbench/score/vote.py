"""Which of several samples speaks for all of them: self-consistency.

Wang et al. 2022, arXiv:2203.11171: the answer that most samples agree on. A ballot is the bag of
words that a metric reads in a reply: one letter, one number, a class, or all words of prose. The
reply that agrees most with the others is elected, agreement being the F1 of two bags. Of ballots
of one word that is a plurality vote; of prose it is minimum Bayes risk decoding, of which the vote
is a special case (Bertsch et al. 2023, arXiv:2310.01387). The right answer is never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kvbench.records import Meta, ReasoningRule
from pytest_kvbench.score.ballots import Ballot, words
from pytest_kvbench.score.labels import is_refusal
from pytest_kvbench.score.metric import METRICS
from pytest_kvbench.score.reasoning import SplitReply, split
from pytest_kvbench.score.text import bag_f1

__all__ = ["Ballot", "ballot", "elect"]


def ballot(metric: str, text: str, meta: Meta, rule: ReasoningRule = "strip") -> Ballot:
    """What a reply votes for.

    It abstains where it is empty, declines, says that it does not know, or has nothing that the
    metric can read.

    Args:
        metric: a key of `METRICS`; of any other it is the words of the whole reply.
        text: the reply.
        meta: the example's; classes are read with `all_classes`.
        rule: see `score_answer`; under `fail` a reply that thinks abstains.
    """
    reply = SplitReply(text) if rule == "keep" else split(text)
    if is_refusal(reply.answer) or (rule == "fail" and reply.has_thoughts):
        return ()
    read = METRICS[metric].ballot if metric in METRICS else words
    return read(reply.answer, meta)


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
