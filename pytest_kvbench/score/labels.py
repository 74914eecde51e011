"""What a reply is besides right or wrong.

Precedence, because a reply has one label: what the server says it is (withheld by its content
filter: REFUSAL; a call of a tool, which nobody offers: FORMAT_ERROR), then TRUNCATED where it was
cut off while it still thought, then EMPTY_OUTPUT, then
REFUSAL (it stays one wherever it was cut off), then TRUNCATED, then FORMAT_ERROR (a reply may be
unreadable because it was cut).
Labelled replies are scored all the same: the label may be the treatment's effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.records import Label

# Conservative: the first words must decline the task itself. "I cannot find the answer in the text"
# is an answer, and so is "unanswerable".
_REFUSAL = re.compile(
    r"""[\s"'*]*
    (?: (?:i['’]?m|i\s+am)\s+(?:very\s+|so\s+|really\s+)?sorry\b[,.]?\s*(?:but\s+)?
      | (?:sorry|i\s+apologi[sz]e|my\s+apologies)\b[,.]?\s*(?:but\s+)?
      | as\s+an\s+ai\b[^.]{0,60}?,\s*(?:but\s+)?
      | unfortunately,?\s+
    )?
    (?: i\s*(?:can(?:['’]?t|\s?not)|(?:am|['’]m)\s+(?:unable|not\s+able)\s+to
           |(?:will\s+not|won['’]t)|must\s+decline\s+to|do\s+not\s+feel\s+comfortable)
        \s+(?:be\s+able\s+to\s+)?
        (?:help|assist|comply|fulfil+|engage|participate|do\s+that|answer|respond|provide|discuss
           |generate|create|complete|process|continue|with)\b
      | i\s+(?:decline|refuse)\s+to\b
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_REFUSAL_ZH = re.compile(
    r"\s*(?:很?抱歉|对不起|不好意思)?[,，。!！]?\s*(?:但?我)(?:无法|不能)(?:回答|提供|协助|帮助|完成|满足)"
)


_BY_REASON: Mapping[str, Label] = MappingProxyType(
    {
        "content_filter": "REFUSAL",
        "tool_calls": "FORMAT_ERROR",
        "function_call": "FORMAT_ERROR",
    }
)


def label_of(
    text: str, finish_reason: str, *, readable: bool = True, is_finished: bool = True
) -> Label:
    """The one label of a reply, or "" for none.

    Args:
        text: the reply.
        finish_reason: the engine's word; `length` means cut off by max_tokens.
        readable: whether the metric could parse the reply.
        is_finished: whether its thoughts, if it thinks aloud, came to their end.
    """
    if finish_reason in _BY_REASON:
        return _BY_REASON[finish_reason]
    if not is_finished:
        return "TRUNCATED"
    if not text.strip():
        return "EMPTY_OUTPUT"
    if is_refusal(text):
        return "REFUSAL"
    if finish_reason == "length":
        return "TRUNCATED"
    return "" if readable else "FORMAT_ERROR"


def is_refusal(text: str) -> bool:
    """Whether a reply declines to answer in its first words."""
    return bool(_REFUSAL.match(text) or _REFUSAL_ZH.match(text))
