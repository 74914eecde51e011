"""Why a reply ended: the words of many servers for it, as the few that mean something here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pytest_kvbench.wire import sound

Ending = Literal["stop", "length", "tool_calls", "content_filter", "error", "none", "unknown"]
"""`error`: broken off, so that there is no answer. `none`: the server says nothing of it."""

_WORDS: Mapping[Ending, str] = MappingProxyType(
    {
        "stop": "stop stopped stop_sequence stop_token stop_string stop_str stop_criteria eos"
        " eos_token eos_found end end_turn end_of_text endoftext matched_stop complete completed",
        "length": "length max_tokens max_output_tokens max_new_tokens max_completion_tokens"
        " max_length model_length token_limit length_capped limit"
        " model_context_window_exceeded context_length_exceeded",
        "tool_calls": "tool_calls tool_call tool_use function_call malformed_function_call"
        " unexpected_tool_call too_many_tool_calls",
        "content_filter": "content_filter content_filtered content_filter_error safety recitation"
        " blocklist prohibited_content spii language image_safety refusal refused sensitive"
        " guardrail guardrail_intervened guardrails moderation moderated policy_violation flagged"
        " blocked censored error_toxic",
    }
)
"""OpenAI's words, and those of vLLM, SGLang, TGI, llama.cpp, Anthropic, Gemini, Cohere, Bedrock,
Zhipu and DeepSeek. TGI's and Gemini's are written in their own way: case and signs do not count.
"""
_ENDINGS: Mapping[str, Ending] = MappingProxyType(
    {word: ending for ending, words in _WORDS.items() for word in words.split()}
)
KNOWN = frozenset(_WORDS)
"""Endings of a reply that was given whole."""

_BROKEN_OFF = re.compile(
    "error|fail|abort|cancel|time_?d?_?out|interrupt|disconnect|preempt|evict|shut_?down"
    "|insufficient|exhausted|overload|unavailable|out_of_memory|(^|_)oom(_|$)|expired|killed"
    "|rate_limit|exception|incomplete|crash"
)
"""What a word has in it where a reply is not whole: there are more of these than can be listed."""

_SIGNS = re.compile(r"[\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PREFIX = "finish_reason_"
"""Gemini's enumeration has it before each word."""


def ending(reason: object) -> Ending:
    """What a finish reason means: a word, or SGLang's object whose `type` is one."""
    word = word_of(reason)
    plain = _SIGNS.sub("_", _CAMEL.sub("_", word)).strip("_").lower().removeprefix(_PREFIX)
    if not plain:
        return "none"
    if plain in _ENDINGS:
        return _ENDINGS[plain]
    return "error" if _BROKEN_OFF.search(plain) else "unknown"


def word_of(reason: object) -> str:
    """A finish reason in the server's own word; empty where it gives none."""
    fields: Mapping[str, object] = sound.fields(reason)
    return sound.message(fields.get("type") if fields else reason)


def message_of(reason: object) -> str:
    """What a finish reason that is an object says besides; else the word itself."""
    return sound.message(sound.fields(reason).get("message")) or word_of(reason)
