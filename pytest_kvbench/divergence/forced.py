"""What the embedded server says of one reply that all arms were asked about, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_kvbench.divergence.records import Divergence, Positions, UnsoundError
from pytest_kvbench.wire import sound

_COLUMNS = ("nll", "top", "top_nll", "reference_top_nll", "overlap", "kld")


def from_choices(control: object, arm: object) -> Divergence:
    """How far an arm is from the full cache, by the `forced` objects of two choices of one reply.

    Args:
        control: the first choice: the full cache's.
        arm: another one; the first itself is equal to the full cache everywhere.

    Raises:
        UnsoundError: they do not hold what such a pass gives.
    """
    ours, theirs = _forced(control), _forced(arm)
    if ours["reference"] != theirs["reference"]:
        raise UnsoundError("forced.reference is not the full cache's; valid: the same tokens")
    same = tuple(a == b for a, b in zip(ours["top"], theirs["top"], strict=True))
    overlap, kld = tuple(theirs["overlap"]), tuple(theirs["kld"])
    return Divergence(
        method="forced",
        n=len(same),
        prefix=same.index(False) if False in same else len(same),
        k=None,
        positions=Positions(
            reference=tuple(theirs["reference"]),
            nll=tuple(theirs["nll"]),
            control_nll=tuple(ours["nll"]),
            top=tuple(theirs["top"]),
            top_nll=tuple(theirs["top_nll"]),
            top_control_nll=tuple(theirs["reference_top_nll"]),
            control_top=tuple(ours["top"]),
            control_top_nll=tuple(ours["top_nll"]),
            same_top=same,
            overlap_low=overlap,
            overlap_high=overlap,
            kld_low=kld,
            kld_high=kld,
        ),
    )


def _forced(choice: object) -> Mapping[str, Any]:
    forced = sound.fields(sound.fields(choice).get("forced"))
    reference = forced.get("reference")
    if not isinstance(reference, list) or not reference:
        raise UnsoundError("forced.reference is no reply; valid: a list of token ids")
    for name in _COLUMNS:
        column = forced.get(name)
        if not isinstance(column, list) or len(column) != len(reference):
            raise UnsoundError(f"forced.{name} does not fit; valid: a value a token of the reply")
    return forced
