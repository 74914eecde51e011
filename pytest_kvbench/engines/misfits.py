"""Settings of requests and servers that would not do what they say. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.wire.sound import Fields


def misfits(engine: EngineSettings, length: int | None) -> Iterator[tuple[str, str, str]]:
    """Settings of requests that would not do what they say: their keys, why, and what is valid.

    Args:
        engine: the engine.
        length: `sampling.max_tokens`.
    """
    kind = kind_of(engine)
    for name in _NOT_EMBEDDED if kind.one_server else ():
        if getattr(engine, name) != getattr(EngineSettings(), name):
            yield name, f"engine.name: {engine.name} has no use for it", "valid: leave it away"
    if engine.slots != EngineSettings().slots and (engine.addresses or not kind.takes_slots):
        yield "slots", "only an embedded server that we start is given them", "valid: leave it away"
    for field, key in _OWN_KEYS.items():
        if engine.extra_body.get(field) is not None:
            yield (
                f"extra_body.{field}",
                f"plan and report would go by {key}, and requests by this",
                f"valid: {key} in its place, or null: the field is not sent",
            )
    yield from _lengths(engine.extra_body, length)


_NOT_EMBEDDED = ("extra_body", "stream", "api", "declared")
_OWN_KEYS = MappingProxyType(
    {
        "model": "engine.model",
        "messages": "tasks",
        "prompt": "tasks",
        "temperature": "sampling.temperature",
        "top_p": "sampling.top_p",
        "seed": "sampling.seed",
        "max_tokens": "sampling.max_tokens",
        "stream": "engine.stream",
    }
)
"""Fields of a request's body that have a key of their own."""
_LENGTHS = ("max_completion_tokens", "max_new_tokens", "max_output_tokens", "n_predict")
"""Other names that servers have for `max_tokens`."""


def _lengths(fields: Fields, length: int | None) -> Iterator[tuple[str, str, str]]:
    """What other names than ours say of an answer's length, where they do not say ours."""
    others = {name: fields[name] for name in _LENGTHS if fields.get(name) is not None}
    if len(others) + ("max_tokens" not in fields) != 1:
        yield (
            "extra_body.max_tokens",
            "an answer's length must stand in one field of a request, in no other and not in none",
            f"valid: {{max_tokens: null, {_LENGTHS[0]}: 64}} beside sampling.max_tokens: 64",
        )
    for name in [name for name, value in others.items() if value != length]:
        yield (
            f"extra_body.{name}",
            f"plan and report would go by sampling.max_tokens, which is {length or 'unset'}",
            f"valid: sampling.max_tokens: {others[name]} beside it",
        )
