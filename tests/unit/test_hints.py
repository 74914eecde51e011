"""Sentences that count: one place knows how, and all others ask it."""

from __future__ import annotations

from pytest_kvbench import hints


def test_one_and_several() -> None:
    assert [hints.count(n, "pair") for n in (0, 1, 2, 1200)] == [
        "0 pairs",
        "1 pair",
        "2 pairs",
        "1,200 pairs",
    ]
    assert [hints.count(2, noun) for noun in ("policy", "batch")] == ["2 policies", "2 batches"]
    assert hints.lost(1, 1) == "1 of 1 pair was lost to failures"
    assert hints.lost(2, 6) == "2 of 6 pairs were lost to failures"
    assert [word(1) + word(2) for word in (hints.are, hints.have)] == ["isare", "hashave"]
