"""Prompts that a server cut are found by what it counted of them, and whole ones are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.analyse.arrival import Sent, cuts, sentence, why_unmeasured
from pytest_kvbench.observation import Cut

LENGTHS = st.lists(st.integers(1, 20_000), min_size=1, max_size=30)


def sent(
    pairs: list[tuple[int, int | None]], serving: bool = False, arm: str = "none"
) -> list[Sent]:
    """Prompts of one arm by our count and the server's."""
    return [Sent(arm, f"e{i}", ours, serving, theirs) for i, (ours, theirs) in enumerate(pairs)]


@given(LENGTHS, st.floats(0.6, 3), st.integers(0, 200))
def test_a_count_that_grows_with_ours_is_of_whole_prompts(
    lengths: list[int], rate: float, template: int
) -> None:
    theirs = [(ours, round(rate * ours) + template) for ours in lengths]
    assert not any(cuts(sent(theirs)))


@given(LENGTHS, st.integers(0, 200))
def test_the_same_tokenizer_and_a_chat_template_are_of_whole_prompts(
    lengths: list[int], template: int
) -> None:
    assert not any(cuts(sent([(ours, ours + template) for ours in lengths], serving=True)))


@given(st.lists(st.none() | st.just(0), min_size=1, max_size=9), st.booleans())
def test_nothing_follows_from_usage_that_is_missing(
    counts: list[int | None], serving: bool
) -> None:
    assert not any(cuts(sent([(5_000, theirs) for theirs in counts], serving)))


@given(st.integers(1_000, 4_000), LENGTHS)
def test_by_the_servers_own_tokenizer_every_cut_prompt_is_found(
    context: int, lengths: list[int]
) -> None:
    found = cuts(sent([(ours, min(ours + 20, context)) for ours in lengths], serving=True))
    for ours, cut in zip(lengths, found, strict=True):
        if ours > 1.05 * context:
            assert cut is not None
            assert cut.arrived == context
            assert cut.flat or cut.whole == ours
        if ours + 20 < context:
            assert cut is None


@given(
    st.integers(1_000, 4_000),
    st.lists(st.floats(1.0, 2.0), min_size=1, max_size=20),
    st.lists(st.floats(0.1, 0.7), max_size=20),
    st.floats(0.8, 1.25),
)
def test_a_count_that_stops_growing_shows_a_cut_by_any_tokenizer(
    context: int, longer: list[float], shorter: list[float], rate: float
) -> None:
    """Some prompts fill the context by a third more, some twice over, and others do not."""
    factors = [1.35, 2.0, 2.5, *longer]
    pairs = [(int(f * context), min(int(rate * f * context), context)) for f in factors + shorter]
    found = cuts(sent(pairs))
    for (ours, theirs), cut in zip(pairs, found, strict=True):
        assert (cut is None) == (theirs < context), (ours, theirs)


NOISY = st.tuples(st.integers(1, 20_000), st.floats(-0.25, 0.25))


@given(st.lists(NOISY, min_size=1, max_size=40), st.floats(0.7, 3), st.integers(0, 200))
def test_a_tokenizer_that_is_off_by_a_quarter_here_and_there_is_of_whole_prompts(
    prompts: list[tuple[int, float]], rate: float, template: int
) -> None:
    pairs = [(ours, round(rate * (1 + noise) * ours) + template) for ours, noise in prompts]
    counts = [theirs for _, theirs in pairs]
    is_capped = counts.count(max(counts)) >= 3  # exactly as by a cap, by bad luck
    assert is_capped or not any(cuts(sent(pairs)))


@given(
    st.integers(300, 4_000),
    st.lists(st.floats(0, 0.05), min_size=3, max_size=30),
    st.lists(st.floats(0.99, 1.01), min_size=3, max_size=30),
)
def test_a_cap_shows_between_narrow_bins_even_where_it_jitters(
    cap: int, jitter: list[float], widths: list[float]
) -> None:
    """A short bin fits as it is, and a long one of twice the length counts no more."""
    short = [(round(0.78 * cap * width), round(0.98 * cap * width)) for width in widths]
    long = [(round(1.56 * cap) + n, round(cap * (1 + more))) for n, more in enumerate(jitter)]
    found = cuts(sent([*short, *long]))
    assert not any(found[: len(short)])
    assert all(cut is not None and cut.flat for cut in found[len(short) :])


def test_the_arm_that_counts_less_than_another_was_cut() -> None:
    whole = sent([(900, 1_000), (950, 1_050)])
    short = sent([(900, 1_000), (950, 700)], arm="snapkv")
    assert cuts([*whole, *short]) == [None, None, None, Cut(700, 1_050)]
    assert cuts([*short, *whole])[1] == Cut(700, 1_050)


@pytest.mark.parametrize("theirs", [500, 512, 492])
def test_few_tokens_more_or_less_are_no_cut(theirs: int) -> None:
    assert cuts(sent([(500, theirs)], serving=True)) == [None]
    both = [*sent([(500, 500)]), *sent([(500, theirs)], arm="snapkv")]
    assert not any(cuts(both))


def test_short_prompts_of_one_count_are_no_cut() -> None:
    assert not any(cuts(sent([(18, 30), (20, 30), (24, 30), (21, 29)])))


def test_what_is_said_names_both_numbers() -> None:
    found = [Cut(2_048, 4_100), Cut(2_048, 4_102), Cut(2_048, 4_104)]
    assert sentence(found, 12) == (
        "3 of 12 pairs have a prompt that the server cut: the server counts 2,048 tokens of 4,102 "
        "(medians)"
    )
    assert "stops at 2,048 tokens, ours goes on to 4,102" in sentence(
        [Cut(2048, 4102, flat=True)], 9
    )


def test_a_few_are_flagged_and_more_are_not_measured() -> None:
    assert not why_unmeasured([], 0, 0.0)
    assert not why_unmeasured([Cut(9, 20)], 20, 0.05)
    assert "at most 5% may be (gate.max_cut)" in why_unmeasured([Cut(9, 20)] * 2, 20, 0.05)
    assert not why_unmeasured([Cut(9, 20)] * 20, 20, 1.0)
