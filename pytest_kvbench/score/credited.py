"""Multiple choice with citations: was the answer right, and was it read in the text?

A reply is a JSON object `{"choice": "B", "quotes": ["words of the text", ...]}`; the choice may be
"IDK". Under pressure on the KV cache grounding may go before accuracy, so both are measured:
`credited` is the score, `right_and_readable` (plain accuracy) is `Score.em`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import texts
from pytest_kvbench.records import Meta

LETTERS = ("A", "B", "C", "D")
ABSTAIN = "IDK"
TAU = 0.5
"""Share of an option's support that the quotes must cover, unless `meta["tau"]` says otherwise."""

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_IDLE = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class Reply:
    """A reply, read: a letter or IDK, and its quotes."""

    choice: str
    quotes: tuple[str, ...]


@dataclass(frozen=True)
class EvidenceScores:
    """Everything that is measured of one reply.

    Attributes:
        readable: the reply is the object asked for.
        abstained: it says IDK.
        correct: it names the right option.
        cited: at least one quote occurs in the context (white space aside).
        card_cited: the first quote is the chosen option's card; None without cards.
        coverage: share (0 to 1) of the words of the chosen option's support inside the quotes.
        coverage_gold: the same for the right option.
        witness: the option whose support the quotes cover most; None on a tie or without any.
        witness_pass: the witness is the chosen option.
        credited: correct, cited, its card cited first (where there are cards), coverage >= tau
            and witness_pass.
    """

    readable: bool = False
    abstained: bool = False
    correct: bool = False
    cited: bool = False
    card_cited: bool | None = None
    coverage: float = 0.0
    coverage_gold: float = 0.0
    witness: str | None = None
    witness_pass: bool = False
    credited: bool = False


def evidence_scores(prediction: str, answers: Sequence[str], meta: Meta) -> EvidenceScores:
    """Judge one reply.

    Args:
        prediction: the reply.
        answers: the right letter.
        meta: `context`, `options` (four texts) and, where given, `support` (four texts that speak
            for the options; the options' own otherwise), `cards` (four texts) and `tau`.

    Raises:
        UsageError: context or options are missing.
    """
    reply = read_reply(prediction)
    if reply is None:
        return EvidenceScores()
    gold = answers[0]
    if reply.choice == ABSTAIN:
        return EvidenceScores(readable=True, abstained=True)
    quotes, card_cited = _without_card(reply, meta)
    found = _found(quotes, str(_needed(meta, "context")))
    covered = _coverages(found, meta)
    witness = _witness(covered)
    correct, grounded = reply.choice == gold, covered[reply.choice] >= _tau(meta)
    witness_pass = witness == reply.choice
    return EvidenceScores(
        readable=True,
        correct=correct,
        cited=bool(found),
        card_cited=card_cited,
        coverage=covered[reply.choice],
        coverage_gold=covered[gold],
        witness=witness,
        witness_pass=witness_pass,
        credited=correct and bool(found) and card_cited is not False and grounded and witness_pass,
    )


def check_options(meta: Meta) -> None:
    """Refuse options, support or cards that are not one text for each letter.

    Raises:
        UsageError: naming the first of them.
    """
    _needed(meta, "options")
    for key in ("options", "support", "cards"):
        _four(meta, key)


def _four(meta: Meta, key: str) -> list[str]:
    """The texts of the four letters; none where there is no such key."""
    given = meta.get(key)
    if not given:
        return []
    found = texts(given)
    if found is None or len(found) != len(LETTERS):
        raise UsageError(f"metric credited needs {key} as a list of four texts", "check them")
    return found


def credited(prediction: str, answers: Sequence[str], meta: Meta) -> float:
    """1 for a right answer with evidence, else 0."""
    return float(evidence_scores(prediction, answers, meta).credited)


def right_and_readable(prediction: str, answers: Sequence[str], meta: Meta) -> float:
    """1 for a right answer, evidence or not, else 0."""
    return float(evidence_scores(prediction, answers, meta).correct)


def evidence_parts(prediction: str, answers: Sequence[str], meta: Meta) -> dict[str, float]:
    """What `evidence_scores` measures as numbers in [0, 1]; what does not apply is left out."""
    scores = evidence_scores(prediction, answers, meta)
    measured = {**asdict(scores), "witness": None}  # a letter: `witness_pass` says what it shows
    return {name: float(value) for name, value in measured.items() if value is not None}


def is_readable(prediction: str, meta: Meta) -> bool:  # noqa: ARG001  # a reader's signature
    """Whether the reply holds the object asked for."""
    return read_reply(prediction) is not None


def read_reply(text: str) -> Reply | None:
    """The first JSON object with a valid choice, fences and chatter around it allowed."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            data, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        reply = _reply(data)
        if reply is not None:
            return reply
    return None


def _reply(data: Mapping[str, object]) -> Reply | None:
    choice, given = data.get("choice"), data.get("quotes", [])
    quotes = texts([given] if isinstance(given, str) else given)
    letter = choice.strip(" ().").upper() if isinstance(choice, str) else ""
    if quotes is None or letter not in {*LETTERS, ABSTAIN}:
        return None
    return Reply(letter, tuple(quotes))


def _without_card(reply: Reply, meta: Meta) -> tuple[Sequence[str], bool | None]:
    """The quotes that may count as evidence, and whether the card came first."""
    cards = [_flat(card) for card in _four(meta, "cards")]
    if not cards:
        return reply.quotes, None
    first, rest = _flat(reply.quotes[0]) if reply.quotes else "", reply.quotes[1:]
    # A card repeats the option, so citing one proves nothing about the text; nor does repeating one
    # that is only the beginning of what it stands for. Where the card is the very sentence of the
    # text, quoting that sentence after it is proof.
    pairs = zip(cards, _supports(meta), strict=True)
    short = {card for card, whole in pairs if _begins(card, whole)}
    quotes = rest if first in cards else reply.quotes
    proofs = [quote for quote in quotes if _flat(quote) not in short]
    return proofs, first == cards[LETTERS.index(reply.choice)]


def _begins(card: str, whole: str) -> bool:
    return card != _flat(whole) and _flat(whole).startswith(card)


def _found(quotes: Sequence[str], context: str) -> list[str]:
    text = _flat(context)
    return [quote for quote in quotes if _words(quote) and _flat(quote) in text]


def _coverages(quotes: Sequence[str], meta: Meta) -> dict[str, float]:
    quoted = set().union(*map(_words, quotes)) if quotes else set()
    supports = map(_words, _supports(meta))
    shares = (len(quoted & words) / len(words) if words else 0.0 for words in supports)
    return dict(zip(LETTERS, shares, strict=True))


def _supports(meta: Meta) -> Sequence[str]:
    if four := _four(meta, "support"):
        return four
    _needed(meta, "options")
    return _four(meta, "options")


def _witness(covered: Mapping[str, float]) -> str | None:
    best = max(covered.values())
    named = [letter for letter, share in covered.items() if share == best]
    return named[0] if best > 0 and len(named) == 1 else None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _IDLE


def _flat(text: str) -> str:
    return " ".join(text.split())


def _tau(meta: Meta) -> float:
    tau = meta.get("tau", TAU)
    if not isinstance(tau, int | float):
        raise UsageError("metric credited needs tau as a number", "check it")
    return tau


def _needed(meta: Meta, key: str) -> object:
    if meta.get(key) is None:
        raise UsageError(f"metric credited needs {key}", "give each row its context and options")
    return meta[key]
