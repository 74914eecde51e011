"""A reply that thinks aloud, taken apart: what it thinks, and what it answers.

Models that reason write their thoughts into the reply, between marks of their family, unless the
server takes them out (then they come in a field of their own). Right letters and numbers in the
thoughts are no answer, and wrong ones no mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MARKS = (
    ("<think>", "</think>"),  # DeepSeek R1, Qwen 3, GLM, MiniMax, Hunyuan, Granite 3.3
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Mistral's Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, Sky-T1
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel>thought", "<channel|>"),  # Gemma
)
_NAMED = re.compile(r"</?([\w:.-]{0,30}(?:think|thought)[\w:.-]{0,30})>", re.I)
"""Marks that say by their names what they are, of families not listed: `<longcat_think>`."""
_IN_WORDS = ("Here is my thought process:", "Here is my response:")
"""Granite 3.2. The second is nothing without the first."""

_CHANNEL = re.compile(
    r"<\|channel\|>(\w+).*?<\|message\|>(.*?)(?:<\|(?:end|return|call)\|>|\Z)", re.S
)
_CHANNEL_BARE = re.compile(
    r"\Aanalysis(?:(?=[A-Z]).*?(assistantfinal|\Z)|.*?(assistantfinal))", re.S
)
"""gpt-oss (harmony), with its special tokens and where the server leaves them out."""

_WRAPPED = re.compile(
    r"\s*<(answer|response|\|START_RESPONSE\||\|begin_of_solution\|)>(.*?)"
    r"(?:</\1>|<\|END_RESPONSE\|>|<\|end_of_solution\|>|\Z)\s*\Z",
    re.S,
)
"""What some of these families put around the answer that follows."""

_ANY = re.compile(
    "|".join(re.escape(mark) for pair in (*_MARKS, _IN_WORDS[:1]) for mark in pair)
    + r"|<\|channel\|>|\Aanalysis",
    re.I,
)


@dataclass(frozen=True)
class SplitReply:
    """A reply taken apart.

    Attributes:
        answer: what is left without the thoughts; of a reply without any, all of it.
        has_thoughts: whether there were any.
        is_finished: whether the thoughts came to their end.
    """

    answer: str
    has_thoughts: bool = False
    is_finished: bool = True


def split(text: str) -> SplitReply:
    """Thoughts and answer of a reply.

    Thoughts stand between an opening and a closing mark; before a closing mark without an opening
    one, which the chat template wrote into the prompt; or after an opening mark that is never
    closed, and then they are not finished. Such a mark behind other words is one of these.
    """
    named = {name.lower() for name in _NAMED.findall(text)}
    if not named and not _ANY.search(text):
        return SplitReply(text)
    if (channels := _by_channel(text)) is not None:
        return channels
    left, is_finished = text, True
    in_words = (_IN_WORDS,) if _IN_WORDS[0].lower() in text.lower() else ()
    others = [(f"<{name}>", f"</{name}>") for name in sorted(named)]
    for opener, closer in dict.fromkeys((*_MARKS, *others, *in_words)):
        left, ended = _without(left, opener, closer)
        is_finished &= ended
    if left == text:
        return SplitReply(text)
    wrapped = _WRAPPED.match(left)
    return SplitReply((wrapped[2] if wrapped else left).strip(), True, is_finished)


def _without(text: str, opener: str, closer: str) -> tuple[str, bool]:
    """The text without what stands between the marks, and whether the last one is closed."""
    kept: list[str] = []
    is_open = False
    pieces = list(_pieces(text, opener, closer))
    last = max((at for at, (_, p) in enumerate(pieces) if p.lower() == closer.lower()), default=-1)
    for at, (is_mark, piece) in enumerate(pieces):
        opens = is_mark and piece.lower() == opener.lower()
        is_word = opens and at > last and "".join(kept).strip()
        if not is_open and (is_word or not is_mark):
            kept.append(piece)
        elif opens:
            is_open = True  # once more inside a thought, it is a word of it
        elif is_mark:
            if not is_open:
                kept.clear()  # the template had opened it
            is_open = False
    return "".join(kept), not is_open


def _pieces(text: str, opener: str, closer: str) -> Iterator[tuple[bool, str]]:
    marks = re.compile(f"({re.escape(opener)}|{re.escape(closer)})", re.I)
    for number, piece in enumerate(marks.split(text)):
        yield number % 2 == 1, piece


def _by_channel(text: str) -> SplitReply | None:
    """A reply in channels, whose answer is the last `final` one; None where it has no channel."""
    if bare := _CHANNEL_BARE.match(text):
        return SplitReply(text[bare.end() :].strip(), True, bool(bare[1] or bare[2]))
    found = _CHANNEL.findall(text)
    if not found:
        return None
    finals = [message for channel, message in found if channel == "final"]
    has_thoughts = any(channel != "final" for channel, _ in found)
    return SplitReply(finals[-1].strip() if finals else "", has_thoughts, bool(finals))
