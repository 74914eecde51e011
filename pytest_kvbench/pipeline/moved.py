"""Where along the replies distributions moved, and which positions moved most.

Position by position, from what is stored: an example's mean hides a drift along its reply.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, quantiles

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.distances import BandRow, Moved, MovedRow, Quantiles
from pytest_kvbench.divergence.records import Divergence, Token
from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.engines.kinds.local import folder_of
from pytest_kvbench.errors import KvbenchError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.store import Store

MOST = 10
"""Positions that are shown."""
_PROMPT_END = 200
"""Characters of a prompt that are shown with them."""
_FIRST_BAND = 8
"""Positions of the first band; each further one ends at twice the place."""

Planned = Sequence[tuple[Cell, Request]]
Found = Sequence[tuple[Cell, Request, Divergence]]
Words = Callable[[Token], str]
"""The text of a token."""


def moved(
    store: Store, planned: Planned, sent: Callable[[Request], Request], words: Words = str
) -> Moved:
    """Distances of treated arms by position, and the positions that moved most.

    Args:
        store: the group's.
        planned: the requests that count, each with its cell.
        sent: gives a request with its prompt.
        words: how tokens are shown.
    """
    asked = {r.key: (cell, r) for cell, r in planned if r.arm.method and not cell.is_control}
    found = [(*asked[key], one) for key, one in store.divergences(list(asked))]
    return {"bands": list(_bands(found)), "most": list(_most(found, sent, words))}


def words_of(experiment: Experiment) -> Words:
    """The text of a token by the tokenizer of a model that is here; else its id."""
    engine = experiment.engine
    if not experiment.diverges or engine.addresses or not kind_of(engine).one_server:
        return str
    try:
        from tokenizers import Tokenizer  # type: ignore[import-untyped]

        file = folder_of(engine) / "tokenizer.json"
        words = Tokenizer.from_file(str(file))
    except (ImportError, KvbenchError, OSError):
        return str
    return lambda token: (
        words.decode([token], skip_special_tokens=False) if isinstance(token, int) else token
    )


def _bands(found: Found) -> Iterator[BandRow]:
    values: dict[tuple[CellKey, int], list[tuple[float, float]]] = {}
    for cell, _, one in found:
        where = one.positions
        pairs = zip(where.kld_low, where.overlap_low, strict=False)
        for at, pair in enumerate(pairs):
            values.setdefault((CellKey.of(cell), _band(at)), []).append(pair)
    for (key, start), pairs_of in sorted(values.items()):
        klds, overlaps = zip(*pairs_of, strict=True)
        yield {
            **key.columns(),
            "first": start,
            "last": _last(start),
            "n": len(klds),
            "overlap": fmean(overlaps),
            **_quantiles(klds),
        }


def _band(at: int) -> int:
    """The first position of the band that a position is in: 0, 8, 16, 32, ..."""
    return 0 if at < _FIRST_BAND else 1 << (at.bit_length() - 1)


def _last(start: int) -> int:
    return max(_FIRST_BAND, 2 * start) - 1


def _quantiles(values: Sequence[float]) -> Quantiles:
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [*values] * 99
    return {"kld_p50": cuts[49], "kld_p90": cuts[89], "kld_p99": cuts[98], "kld_max": max(values)}


def _most(found: Found, sent: Callable[[Request], Request], words: Words) -> Iterator[MovedRow]:
    """One position of each reply and arm: the one that moved most."""
    tops = ((max(one.positions.kld_low), cell, r, one) for cell, r, one in found if _says(one))
    for kld, cell, request, one in heapq.nlargest(MOST, tops, key=lambda top: top[0]):
        at, told = one.positions.kld_low.index(kld), one.positions
        yield {
            **CellKey.of(cell).columns(),
            "example_id": request.example_id,
            "position": at,
            "kld": kld,
            "overlap": told.overlap_low[at] if told.overlap_low else None,
            # Where no texts are kept the reply's are not here, and its prompt's are not shown.
            "prompt_end": sent(request).prompt.text[-_PROMPT_END:] if told.reference else "",
            "reply": "".join(map(words, told.reference[:at]))[-_PROMPT_END:],
            "control_token": _word(told.control_top, at, words),
            "control_nll": _at(told.control_top_nll, at),
            "arm_token": _word(told.top, at, words),
            "arm_nll": _at(told.top_nll, at),
            "arm_token_control_nll": _at(told.top_control_nll, at),
        }


def _says(one: Divergence) -> bool:
    return bool(one.positions.kld_low)


def _word(tokens: Sequence[Token], at: int, words: Words) -> str | None:
    return words(tokens[at]) if len(tokens) > at else None


def _at(values: Sequence[float], at: int) -> float | None:
    return values[at] if len(values) > at else None
