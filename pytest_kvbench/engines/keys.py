"""API keys: found in the environment, kept out of files, messages and what we start."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.addresses import is_header

if TYPE_CHECKING:
    from pytest_kvbench.experiment.engine import EngineSettings

KEY_NAMES = ("KVBENCH_API_KEY", "OPENAI_API_KEY")
_SHORTEST = 8
"""Characters of a key that is worth hiding: servers without keys are given `x` or `none`."""
_NAMES = frozenset({"name", "model", "api_key_env"})
"""Settings that name something, which a dummy key may repeat."""


def api_key_of(settings: EngineSettings) -> str | None:
    """The API key in the environment, or None. Servers that we start get none, unless it is named.

    Raises:
        UsageError: the variable that the experiment names is not set, or no header can carry its
            value.
    """
    if settings.api_key_env is None:
        found = (_key_in(name) for name in KEY_NAMES) if settings.addresses else ()
        return next(filter(None, found), None)
    key = _key_in(settings.api_key_env)
    if not key:
        raise UsageError(
            f"engine.api_key_env: the environment variable {settings.api_key_env} is not set",
            f"set it: export {settings.api_key_env}=...",
        )
    return key


def _key_in(name: str) -> str:
    """The key in a variable; blanks around it, as the end of a file's line, are none of it."""
    key = os.environ.get(name, "").strip()
    if not is_header(key):
        raise UsageError(
            f"the key in the environment variable {name} has characters that no header can carry",
            "valid: one line of printable ASCII",
        )
    return key


def check_absent(settings: EngineSettings, key: str | None) -> None:
    """Refuse settings of which a value is the key: every report would repeat it.

    Whole values are compared, and the words of one (`Bearer KEY`, `--api-key KEY`), never parts of
    a word. A key of a few letters is a dummy and no secret.

    Raises:
        UsageError: naming the value's place, not the value.
    """
    if key is None or len(key) < _SHORTEST:
        return
    for place, value in _leaves(settings.model_dump(mode="json"), "engine"):
        if key in {value, *re.split(r"[\s=]+", value)}:
            raise UsageError(
                f"{place}: the experiment holds the API key itself, which every report would "
                "repeat",
                "take it out; the environment variable suffices",
            )


def masked(text: str, key: str | None) -> str:
    """The text without the key, which some servers repeat; longer words that hold it stay."""
    if key is None or len(key) < _SHORTEST:
        return text
    return re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", "***", text)


def decoded(content: bytes, key: str | None, decode: Callable[[bytes], Any] = sound.decoded) -> Any:
    """JSON from a server, decoded, without the key in any of its texts (see `masked`).

    Raises:
        ValueError: as `decode`, or it is nested deeper than Python reads.
    """
    try:
        return hidden(decode(content), key)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def hidden(data: Any, key: str | None) -> Any:
    """JSON data without the key in any of its texts."""
    if key is None or len(key) < _SHORTEST:
        return data
    if isinstance(data, str):
        return masked(data, key) if key in data else data
    if isinstance(data, dict):
        return {hidden(name, key): hidden(value, key) for name, value in data.items()}
    return [hidden(value, key) for value in data] if isinstance(data, list) else data


def without_keys(settings: EngineSettings | None = None) -> dict[str, str]:
    """The environment for a server that we start, without keys.

    Where the user's own command starts it and a variable is named, it has that one: the key goes to
    it with every request.
    """
    named = settings.api_key_env if settings else None
    kept = named if settings and settings.launch.command else None
    ours = {*KEY_NAMES, named} - {kept}
    return {name: value for name, value in os.environ.items() if name not in ours}


def _leaves(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every string in JSON data, with the place where it is."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _NAMES or place != "engine":
                yield from _leaves(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, place)
