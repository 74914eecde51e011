"""Stop strings in a reply that grows: the same cut as a plain search, at a cost that is bounded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from pytest_kvbench.server import text as text_module
from pytest_kvbench.server.text import TextStream

WORDS = ["".join(letters) for n in (1, 2, 3) for letters in itertools.product("ab", repeat=n)]
"""Every token is a bit of text over two letters, so that beginnings of stop strings abound."""


def tokenizer() -> Tokenizer:
    known = Tokenizer(models.WordLevel({w: n for n, w in enumerate([*WORDS, "?"])}, "?"))
    known.decoder = decoders.Fuse()
    return known


def streamed(tokens: Sequence[str], stops: Sequence[str]) -> list[str]:
    """What is shown, bit by bit; the last is what comes at the end."""
    stream = TextStream(tokenizer(), stops)
    shown = []
    for token in tokens:
        shown.append(stream.push(WORDS.index(token)))
        if stream.stopped:
            break
    return [*shown, stream.finish()]


def searched(tokens: Sequence[str], stops: Sequence[str]) -> str:
    """The whole text up to the first stop string, as found once the token is whole."""
    text = ""
    for token in tokens:
        text += token
        found = [text.find(stop) for stop in stops if stop and stop in text]
        if found:
            return text[: min(found)]
    return text


@given(
    st.lists(st.sampled_from(WORDS), max_size=30),
    st.lists(st.text("ab", max_size=9), max_size=4),
)
def test_the_cut_is_that_of_a_plain_search(tokens: list[str], stops: list[str]) -> None:
    shown = streamed(tokens, stops)
    assert "".join(shown) == searched(tokens, stops)


@given(st.lists(st.sampled_from(WORDS), max_size=20), st.text("ab", min_size=1, max_size=9))
def test_nothing_is_shown_that_a_stop_string_may_begin_with(tokens: list[str], stop: str) -> None:
    *shown, _ = streamed(tokens, [stop])
    for count in range(len(shown)):
        text, so_far = "".join(tokens[: count + 1]), "".join(shown[: count + 1])
        held = text[len(so_far) :]
        assert stop in text or (stop.startswith(held) and held != stop)


def test_a_long_stop_string_costs_a_step_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    longer = text_module._longer

    def counted(*given: object) -> int:
        nonlocal steps
        steps += 1
        return longer(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(text_module, "_longer", counted)
    stop = "ab" * 5000
    shown = streamed(["ab", "a", "b"] * 300, [stop + "a"])
    assert "".join(shown) == "abab" * 300
    assert steps == len(stop) + 4 * 300  # once for the string, once for the text
