"""Token counts from a running server: llama.cpp, vLLM and the embedded one answer `/tokenize`.

For models whose `tokenizer.json` is not on this machine. A call takes some 50 ms, so a prompt gets
`CALLS` at most: texts are cut here, by the pieces that come with the tokens, many short ones are
counted as one, and what was counted once is remembered.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from pytest_kvbench.errors import EngineError, RefusedError
from pytest_kvbench.tasks.archive import cache_folder
from pytest_kvbench.tasks.counted import Counted
from pytest_kvbench.tasks.cuts import Span, Truncating, middle_of
from pytest_kvbench.tasks.pieces import spans
from pytest_kvbench.tasks.together import Progress, Say, say_nothing, together
from pytest_kvbench.tasks.tokenizers import Approximate, batches
from pytest_kvbench.wire import bounded, sound
from pytest_kvbench.wire.lean import httpx
from pytest_kvbench.wire.network import client_of

T = TypeVar("T")

PROBE = "The lake lies still: 湖水平静, 12345 naïve  words.\n"

CALLS = 4
"""For one prompt at most."""

PLACES = 4
"""Calls at once at most."""

CALL_S = 60.0
"""How long one may take."""

REPLY_BYTES = 128 * 2**20
"""How large its reply may be: a million tokens with their pieces take some 50 MB."""

TOGETHER = 64
"""Texts between two savings of what was counted."""

JOINED = 100_000
"""Characters of short texts in one call."""

MARGIN, NEAR = 0.98, 0.95
"""Without pieces a cut aims at this share of what may stay, and is content with that."""

_UNUSABLE = (
    httpx.HTTPError, httpx.InvalidURL,
    ValueError, KeyError, TypeError, AttributeError, RecursionError,
)  # fmt: skip
"""What a call that brings no tokens raises: no reply, or none that can be read."""

MEND = "is it up? or name a tokenizer: tokenizer: hf:PATH_OR_ID, tiktoken:NAME or approximate"


@dataclass(frozen=True)
class Dialect:
    """What a kind of server calls the text, and the switches it knows: no special tokens, pieces.

    One that forbids unknown fields is sent none.
    """

    text: str
    switches: Mapping[str, bool]


DIALECTS = (
    # llama.cpp and the embedded server. First, as llama.cpp answers an unknown field for the text
    # with no tokens at all, the others with an error.
    Dialect("content", {"add_special": False, "with_pieces": True}),
    Dialect("prompt", {"add_special_tokens": False, "return_token_strs": True}),  # vLLM
    Dialect("prompt", {"add_special_tokens": False}),  # vLLM before it gave pieces, SGLang
)


@dataclass(frozen=True)
class Tokens:
    """A text's tokens as a server counted them; `ids` and `pieces` are None where it gave none."""

    count: int
    ids: list[Any] | None
    pieces: list[Any] | None


@dataclass(frozen=True)
class ServedTokenizer(Truncating):
    """The serving model's own tokenizer, behind its server.

    Args:
        name: `served:` and a hash of how a fixed text is tokenized.
        ask: one call.
        counted: what is known.
        places: calls at once.
        progress: shows how far a count is.
    """

    name: str
    ask: Callable[[str], Tokens] = field(repr=False, compare=False)
    counted: Counted = field(repr=False, compare=False)
    places: int = field(repr=False, compare=False)
    progress: Progress = field(repr=False, compare=False)
    tries: int = CALLS

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, a call for each that is new."""
        found = self._find("count", texts, texts, lambda text: [self._ask(text).count])
        return [count for (count,) in found]

    def costs(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each of many short texts, counted as one text: near enough to choose by."""
        chunks = list(_chunks(texts))
        found = self._find("costs", [json.dumps(parts) for parts in chunks], chunks, self._costs)
        return [cost for costs in found for cost in costs]

    def middle_cuts(self, texts: Iterable[str], max_tokens: int) -> list[Span | None]:
        """Spans between the kept tokens; by characters where the server gives no pieces."""
        texts = list(texts)
        self.counted.load(self.counted.key("count", text) for text in texts)
        find = partial(self._middle_cut, max_tokens=max_tokens)
        found = self._find(f"cut {max_tokens}", texts, texts, find)
        return [(cut[0], cut[1]) if cut else None for cut in found]

    def middle_cut(self, text: str, max_tokens: int) -> Span | None:
        """As `middle_cuts`, of one text."""
        return self.middle_cuts([text], max_tokens)[0]

    def _find(
        self, kind: str, names: Sequence[str], items: Sequence[T], find: Callable[[T], list[int]]
    ) -> list[list[int]]:
        """The result of `find` for every item, or an earlier one that was kept under its key."""
        keys = [self.counted.key(kind, name) for name in names]
        self.counted.load(keys)
        pairs = zip(keys, items, strict=True)
        new = {key: item for key, item in pairs if self.counted.get(key) is None}
        for some in batches(list(new.items()), TOGETHER):
            try:
                found = together(lambda pair: find(pair[1]), some, self.places, self.progress)
                for (key, _), value in zip(some, found, strict=True):
                    self.counted.put(key, value)
            finally:
                self.counted.save()  # what was counted before an error or an interrupt too
        return [self.counted.get(key) or [] for key in keys]

    def _ask(self, text: str) -> Tokens:
        tokens = self.ask(text) if text else Tokens(0, [], [])
        self.counted.put(self.counted.key("count", text), [tokens.count])
        return tokens

    def _costs(self, parts: Sequence[str]) -> list[int]:
        """Tokens that begin in every other part: the first, third, ... only keep texts apart."""
        text = "".join(parts)
        tokens = self._ask(text)
        where = _spans(tokens, text)
        if where is None:
            return _scaled(Approximate().count(parts[1::2]), tokens.count)
        ends = list(itertools.accumulate(map(len, parts)))
        begun = Counter(bisect_right(ends, start) for start, _ in where)
        return [begun[i] for i in range(1, len(parts), 2)]

    def _middle_cut(self, text: str, max_tokens: int) -> list[int]:
        stored = self.counted.get(self.counted.key("count", text))
        if stored is not None and stored[0] <= max_tokens:
            return []
        tokens = self._ask(text)
        if tokens.count <= max_tokens:
            return []
        where = _spans(tokens, text)
        cut = (
            self._cut_by_counts(text, tokens.count, max_tokens)
            if where is None
            else middle_of(where, max_tokens)
        )
        return list(cut or ())

    def _cut_by_counts(self, text: str, tokens: int, max_tokens: int) -> Span:
        """As many characters at either end as `CALLS` in all find to fit."""
        fits, over = (0, 0), (len(text), tokens)  # characters kept, and their tokens
        for left in reversed(range(CALLS - 1)):
            share = MARGIN * (max_tokens - fits[1]) / (over[1] - fits[1])
            more = int(share * (over[0] - fits[0]))
            # At last so few that they must fit: a character is four tokens at most.
            kept = fits[0] + more if left or fits[0] else min(more, max_tokens // 4)
            start, end = _ends_kept(text, kept)
            count = self._ask(text[:start] + text[end:]).count
            if count > max_tokens:
                over = kept, count
            else:
                fits = kept, count
            if NEAR * max_tokens <= count <= max_tokens or not more:
                break
        return _ends_kept(text, fits[0])


def _ends_kept(text: str, kept: int) -> Span:
    return kept // 2, len(text) - kept // 2


def _spans(tokens: Tokens, text: str) -> list[Span] | None:
    return None if tokens.pieces is None else spans(tokens.pieces, text)


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Short texts, each after what keeps it apart from the one before, a call's worth at once."""
    parts: list[str] = []
    size = 0
    for text in texts:
        if size > JOINED:
            yield parts
            parts, size = [], 0
        parts += ["" if text[:1] in {"", " ", ","} else "\n", text]
        size += len(text)
    if parts:
        yield parts


def _scaled(weights: Sequence[int], total: int) -> list[int]:
    """Whole numbers in the ratio of `weights` with the sum `total`, none of them 0 for nothing."""
    scale = total / max(1, sum(weights))
    marks = [round(mark * scale) for mark in itertools.accumulate(weights, initial=0)]
    return [
        max(int(weight > 0), b - a)
        for weight, (a, b) in zip(weights, itertools.pairwise(marks), strict=True)
    ]


def served_tokenizer(
    base_url: str,
    model: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    places: int = PLACES,
    say: Say = say_nothing,
) -> ServedTokenizer:
    """The tokenizer behind an OpenAI-style `base_url` (with or without `/v1`).

    Args:
        base_url: of the server.
        model: the served name, which vLLM asks for.
        headers: of every call.
        places: calls at once, `PLACES` at most.
        say: told how far a count is, where it takes long.

    Raises:
        EngineError: the server is not there or has no `/tokenize` that we understand.
    """
    url = f"{base_url.rstrip('/').removesuffix('/v1')}/tokenize"
    client = client_of(url, timeout_s=CALL_S, headers=headers)
    problem = ""
    for dialect in DIALECTS:
        ask = partial(_ask, client, url, model, dialect)
        try:
            tokens = ask(PROBE)
        except RefusedError:
            raise
        except EngineError as error:
            problem = f" ({error.what})"
            if isinstance(error.__cause__, httpx.TransportError):
                break  # nobody is there, whatever the dialect
            continue
        if tokens.count:
            identity = [tokens.count, model] if tokens.ids is None else tokens.ids
            name = f"served:{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"
            # A count alone tells no tokenizers apart: such are not remembered.
            folder = None if tokens.ids is None else cache_folder()
            counted = Counted(folder, json.dumps([name, model, tokens.pieces is not None]))
            progress = Progress(say, f"counting tokens at {url}")
            return ServedTokenizer(name, ask, counted, min(places, PLACES), progress)
    raise EngineError(f"no tokenizer behind {url}{problem}", MEND)


def _ask(client: httpx.Client, url: str, model: str, dialect: Dialect, text: str) -> Tokens:
    whole = text.encode(errors="replace").decode()  # half a surrogate pair cannot be sent
    body = {"model": model, dialect.text: whole, **dialect.switches}
    try:
        return _read(_post(client, url, body))
    except _UNUSABLE as error:
        message = sound.message(str(error) or type(error).__name__)
        raise EngineError(f"{url} did not count tokens: {message}", MEND) from error


def _post(client: httpx.Client, url: str, body: Mapping[str, object]) -> Any:
    """One call. Its reply is neither waited for nor read without end."""
    end, content = time.monotonic() + CALL_S, bytearray()
    with bounded.opened(client, "POST", url, json=body) as response:
        if response.is_error:
            raise _error(url, response.status_code, bounded.beginning(response, bounded.ERROR))
        for some in bounded.plain(response):
            content += some
            if len(content) > REPLY_BYTES or time.monotonic() > end:
                raise ValueError(f"its reply is over {REPLY_BYTES:,} bytes or {CALL_S:.0f} s")
    return json.loads(content)


def _error(url: str, status: int, content: bytes) -> Exception:
    message = f"HTTP {status}: {sound.message(content.decode(errors='replace'))}"
    if status in {401, 403}:
        return RefusedError(f"{url} refuses to count tokens: {message}", "see engine.api_key_env")
    return ValueError(message)


def _read(reply: Any) -> Tokens:
    """The tokens in a reply, in any of the forms that servers use."""
    tokens = reply.get("tokens", reply["count"]) if "count" in reply else reply["tokens"]
    if type(tokens) is int and tokens >= 0:
        return Tokens(tokens, None, None)
    if not isinstance(tokens, list):
        raise ValueError(f"tokens: {str(tokens)[:40]!r}, expected a list")
    if tokens and isinstance(tokens[0], dict):
        return Tokens(len(tokens), [t["id"] for t in tokens], [t["piece"] for t in tokens])
    pieces = reply.get("token_strs")
    fits = isinstance(pieces, list) and len(pieces) == len(tokens)
    return Tokens(len(tokens), tokens, pieces if fits else None)
