"""Reads log-probabilities, in the forms in which servers say them, into positions of a reply.

    chat                 `logprobs.content`: OpenAI, vLLM, SGLang, llama.cpp
    plain completions    `logprobs.tokens` and lists beside it: OpenAI, vLLM; llama.cpp as chat
    of a prompt          vLLM's `prompt_logprobs`
    native completions   llama.cpp's `completion_probabilities`

A token's identity is its id, wherever one is said: texts are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from pytest_kvbench.divergence.named import Step, step
from pytest_kvbench.divergence.records import Token, UnsoundError
from pytest_kvbench.wire import finish, sound
from pytest_kvbench.wire.sound import Fields

K = 20
"""Tokens a position that are asked for: the most that OpenAI and vLLM name by default."""

IDS: Fields = {"return_tokens_as_token_ids": True}
"""What makes vLLM say ids: it says texts otherwise, which several tokens share."""

_LEAST = -9999.0
_ID = re.compile("token_id:([0-9]{1,9})")


def of_reply(choice: Fields, k: int = K) -> list[Step]:
    """The positions of the reply that a choice holds.

    Raises:
        UnsoundError: it names no tokens, or they are none.
    """
    logprobs = sound.fields(choice.get("logprobs"))
    content = logprobs.get("content")
    if isinstance(content, list):
        return [_entry(sound.fields(entry), k) for entry in content]
    lists = [logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    tokens, logs, tops = (one if isinstance(one, list) else [] for one in lists)
    if not tokens and not isinstance(lists[0], list):
        raise UnsoundError("its server names no tokens; valid: logprobs of each position")
    return [
        step(_token(token), _log(log), _pairs(sound.fields(top).items()), k)
        for token, log, top in zip_longest(tokens, logs, tops)
    ]


def ends_unsaid(choice: Fields) -> bool:
    """Whether a reply ended by itself and its last position is still text: OpenAI names no end.

    vLLM and llama.cpp have an entry for the end token, which is not in the text.
    """
    if finish.ending(choice.get("finish_reason")) != "stop":
        return False
    text = sound.fields(choice.get("message")).get("content") or choice.get("text")
    last = _last_text(sound.fields(choice.get("logprobs")))
    return not isinstance(text, str) or not text or (bool(last) and text.endswith(last))


def _last_text(logprobs: Fields) -> str:
    """The text of the last position; "" where only an id is said."""
    entries: list[object] = [*sound.objects(logprobs.get("content"))]
    tokens = logprobs.get("tokens")
    last = (entries or (tokens if isinstance(tokens, list) else []) or [""])[-1]
    content, token = sound.fields(last).get("bytes"), sound.fields(last).get("token", last)
    if isinstance(content, list):
        counts = (sound.count(byte) for byte in content)
        whole = bytes(byte for byte in counts if byte is not None and byte < 256)
        return whole.decode(errors="ignore")
    return token if isinstance(token, str) and not _ID.fullmatch(token) else ""


def of_prompt(data: object, reply: Sequence[Token], k: int = K) -> list[Step]:
    """The positions of a reply that ends a prompt, of vLLM's `prompt_logprobs`.

    Raises:
        UnsoundError: they are not there.
    """
    entries = data if isinstance(data, list) else []
    if len(entries) <= len(reply):  # the first token has none before it
        raise UnsoundError("its server names no tokens of a prompt; valid: prompt_logprobs")
    last = entries[len(entries) - len(reply) :]
    return [_of_ids(sound.fields(at), token, k) for at, token in zip(last, reply, strict=True)]


def of_next(data: object, token: Token, k: int = K) -> Step:
    """The position after a prompt, of llama.cpp's `completion_probabilities`; `token` is there.

    Raises:
        UnsoundError: it is not there.
    """
    entries = sound.objects(sound.fields(data).get("completion_probabilities"))
    tops = sound.objects(entries[0].get("top_logprobs")) if entries else []
    named = dict(_pairs(_named(tops)))
    return step(token, named.get(token), named.items(), k)


def ids_of(data: object) -> list[int]:
    """The tokens that a server says a text has.

    Raises:
        UnsoundError: it says none.
    """
    tokens = sound.fields(data).get("tokens")
    ids = [sound.count(token) for token in tokens] if isinstance(tokens, list) else []
    found = [number for number in ids if number is not None]
    if not found or len(found) != len(ids):
        raise UnsoundError("its server does not say a prompt's tokens; valid: /tokenize with ids")
    return found


def _of_ids(named: Fields, token: Token, k: int) -> Step:
    by_id = {_number(key): sound.fields(of).get("logprob") for key, of in named.items()}
    pairs = list(_pairs(by_id.items()))
    return step(token, dict(pairs).get(token), pairs, k)


def _entry(entry: Fields, k: int) -> Step:
    named = _pairs(_named(sound.objects(entry.get("top_logprobs"))))
    return step(_token_of(entry), _log(entry.get("logprob")), named, k)


def _named(entries: Iterable[Fields]) -> Iterator[tuple[Token, object]]:
    return ((_token_of(entry), entry.get("logprob")) for entry in entries)


def _pairs(named: Iterable[tuple[object, object]]) -> Iterator[tuple[Token, float]]:
    for token, log in named:
        yield _token(token), _log(log)


def _token_of(entry: Fields) -> Token:
    """Its id; else its text, or its bytes where they are no text."""
    if (number := sound.count(entry.get("id"))) is not None:
        return number
    token = _token(entry.get("token"))
    content = entry.get("bytes")
    if not isinstance(token, str) or "\ufffd" not in token or not isinstance(content, list):
        return token
    return "".join(f"<{sound.count(byte)}>" for byte in content)


def _token(said: object) -> Token:
    if isinstance(said, int) and sound.count(said) is not None:
        return said
    if not isinstance(said, str):
        raise UnsoundError("a token has no text; valid: a text or an id")
    found = _ID.fullmatch(said)
    return int(found[1]) if found else sound.text(said)


def _number(key: str) -> int | str:
    return int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else key


def _log(said: object) -> float:
    """A log-probability; what never comes is minus infinity, in some servers' words -9999."""
    if isinstance(said, bool) or not isinstance(said, int | float) or not said <= 1:
        raise UnsoundError("a token has no log-probability; valid: a number, at most 0")
    return max(float(said), _LEAST)
