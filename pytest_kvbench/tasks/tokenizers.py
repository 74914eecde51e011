"""Who counts tokens: the serving model's own tokenizer, tiktoken, a hub one, or an approximation.

`Tokenizer.name` is the resolved name that goes into the manifest: it changes whenever counts may.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.cuts import Span, Truncating, middle_of

if TYPE_CHECKING:
    import tiktoken
    import tokenizers  # type: ignore[import-untyped]  # ships no types

BATCH = 64
"""Texts encoded at once: encodings of long texts take far more memory than the texts."""

SPECS = "auto, tiktoken:NAME, hf:PATH_OR_ID or approximate"


T = TypeVar("T")


class Tokenizer(Protocol):
    """Counts and cuts text. Special tokens are not counted."""

    @property
    def name(self) -> str:
        """Resolved name, stored and guarded."""

    @property
    def tries(self) -> int:
        """How often a prompt that is made to length is counted at most."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""

    def costs(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each of many short texts; estimates, where counts are dear."""

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """The span of characters to drop so that about `max_tokens` stay, or None if they fit.

        LongBench's rule (pred.py, get_pred): the first and the last `max_tokens // 2` tokens stay.
        """

    def middle_cuts(self, texts: Iterable[str], max_tokens: int) -> list[Span | None]:
        """The `middle_cut` of each text."""


class Server(Protocol):
    """A server with `/tokenize`, which `address` may have to start.

    `vocabulary` names its vocabulary where that is known without asking; `headers` go along.
    """

    @property
    def model(self) -> str:
        """The name under which the model is served."""

    @property
    def address(self) -> Callable[[], str]:
        """The base URL; a server of ours is started for it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every request; they may hold a key."""

    @property
    def vocabulary(self) -> str:
        """A name for the server's vocabulary, where it is known without asking; else empty."""

    @property
    def places(self) -> int:
        """How many calls may be under way at once."""


class TokenizerWarning(UserWarning):
    """Token counts are not what was asked for."""


@dataclass(frozen=True)
class Approximate(Truncating):
    """No vocabulary: a token is one CJK character, up to six word characters, or one sign.

    Within about a quarter of modern tokenizers on English prose and on Chinese; the same on every
    machine.
    """

    name: str = "approximate-1"
    _piece: re.Pattern[str] = field(
        default=re.compile(
            r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
            r"|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]{1,6}"
            r"|[^\w\s]"
        ),
        repr=False,
    )

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many pieces each text has."""
        return [
            _ascii_pieces(text) if text.isascii() else len(self._piece.findall(text))
            for text in texts
        ]

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """The span of characters between the kept pieces; None where nothing is cut."""
        spans = [match.span() for match in self._piece.finditer(text)]
        return middle_of(spans, max_tokens)


_ASCII = "".join(
    "w" if sign.isalnum() or sign == "_" else " " if sign.isspace() else "."
    for sign in map(chr, range(128))
).encode() + bytes(128)
"""What each ASCII character is to `Approximate`: part of a word, blank, or a sign."""


def _ascii_pieces(text: str) -> int:
    """The number of `Approximate`'s pieces in ASCII text, several times as fast as its pattern."""
    kinds = text.encode().translate(_ASCII)
    for length in range(6, 0, -1):  # the longest pieces first, as the pattern takes them
        kinds = kinds.replace(b"w" * length, b".")
    return kinds.count(b".")


@dataclass(frozen=True)
class FastTokenizer(Truncating):
    """A `tokenizer.json`, through the tokenizers library alone.

    Tokenizing is nearly all of the work of preparing, so counts are remembered by the text's hash.
    """

    name: str
    backend: tokenizers.Tokenizer = field(repr=False)
    _counts: dict[bytes, int] = field(default_factory=dict, repr=False, compare=False)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, in batches."""
        keys = [_key(text) for text in texts]
        unknown = {key: t for key, t in zip(keys, texts, strict=True) if key not in self._counts}
        for batch in batches(list(unknown.items()), BATCH):
            encoded = self.backend.encode_batch_fast(
                [t for _, t in batch], add_special_tokens=False
            )
            for (key, _), encoding in zip(batch, encoded, strict=True):
                self._counts[key] = len(encoding)
        return [self._counts[key] for key in keys]

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """Span between the kept tokens. Special tokens take part, as in LongBench's own code."""
        encoding = self.backend.encode(text)
        self._counts[_key(text)] = len(encoding) - sum(encoding.special_tokens_mask)
        return middle_of(encoding.offsets, max_tokens)


@dataclass(frozen=True)
class TiktokenTokenizer(Truncating):
    """An encoding of OpenAI's tiktoken."""

    name: str
    backend: tiktoken.Encoding = field(repr=False)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(self.backend.encode_ordinary(text)) for text in texts]

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """Span between the kept tokens; a character cut in two stays whole."""
        tokens = self.backend.encode_ordinary(text)
        if len(tokens) <= max_tokens:
            return None
        half = max_tokens // 2
        decoded, starts = self.backend.decode_with_offsets(tokens)
        if decoded != text:
            raise UsageError(
                f"tokenizer {self.name} cannot give a text back unchanged, so it cannot cut it",
                "use tokenizer: auto or approximate",
            )
        return starts[half], starts[-half] if half else len(text)


def is_serving(name: str) -> bool:
    """Whether the tokenizer of this resolved name is the serving model's own (`auto`)."""
    return name.startswith(("auto:", "served:"))


@dataclass(frozen=True)
class Deferred(Truncating):
    """A tokenizer whose name is known before it is made, which the first count does."""

    name: str
    make: Callable[[], Tokenizer] = field(repr=False)
    tries: int = 6

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return self._made.count(texts)

    def costs(self, texts: Sequence[str]) -> list[int]:
        """As the tokenizer that it stands for."""
        return self._made.costs(texts)

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """As the tokenizer that it stands for."""
        return self._made.middle_cut(text, max_tokens)

    def middle_cuts(self, texts: Iterable[str], max_tokens: int) -> list[Span | None]:
        """As the tokenizer that it stands for."""
        return self._made.middle_cuts(texts, max_tokens)

    @cached_property
    def _made(self) -> Tokenizer:
        return self.make()


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Lists of at most `size` of the items, in order."""
    return (items[start : start + size] for start in range(0, len(items), size))
