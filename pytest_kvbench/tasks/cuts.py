"""Where a text that is too long is cut, and what follows from a tokenizer's few own methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int]


class Truncating:
    """What follows from `count` and `middle_cut` where both are cheap."""

    tries: int = 6

    def count(self, texts: Sequence[str]) -> list[int]:
        """Each tokenizer's own."""
        raise NotImplementedError

    def costs(self, texts: Sequence[str]) -> list[int]:
        """As `count`."""
        return self.count(texts)

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """Each tokenizer's own."""
        raise NotImplementedError

    def middle_cuts(self, texts: Iterable[str], max_tokens: int) -> list[Span | None]:
        """The `middle_cut` of each text, one after the other."""
        return [self.middle_cut(text, max_tokens) for text in texts]


def middle_of(spans: Sequence[Span], max_tokens: int) -> Span | None:
    """The middle cut of a text whose tokens lie at `spans`."""
    if len(spans) <= max_tokens:
        return None
    half = max_tokens // 2
    # Special tokens have the empty span (0, 0): they count, and cover no character.
    kept_head = max((end for _, end in spans[:half]), default=0)
    kept_tail = [start for start, end in spans[len(spans) - half :] if end > start]
    return kept_head, max(kept_head, min(kept_tail, default=spans[-1][1]))
