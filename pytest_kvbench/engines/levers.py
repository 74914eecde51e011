"""What each engine can do to its cache: the policies it takes, and the bytes they keep.

A server that stores keys and values in another type keeps a fixed fraction of the control's bytes:
such a policy makes one cell and ignores the ladder. Asks nobody, so that a plan may use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.engine import Endpoint, EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.policies.table import get_policy
from pytest_kvbench.records import FULL_CACHE

_GGML_BITS = {"q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5, "iq4_nl": 4.5}
"""Bits a value, scales included: ggml stores blocks of 32 values in 34, 24, 22, 20 or 18 bytes."""

_FP8_BITS = {"fp8": 8.0, "fp8_e4m3": 8.0, "fp8_e5m2": 8.0}


@dataclass(frozen=True)
class Levers:
    """What one engine's servers take: `control` is their word for the full cache.

    `bits` a value by policy; `params` are those of every policy; `starts` says whether we know how
    to start such a server.
    """

    control: str = "auto"
    bits: Mapping[str, float] = field(default_factory=dict)
    params: tuple[str, ...] = ()
    starts: bool = False


LEVERS: Mapping[str, Levers] = MappingProxyType(
    {
        "llamacpp": Levers("f16", _GGML_BITS, params=("type_v",), starts=True),
        "vllm": Levers("auto", _FP8_BITS, starts=True),
        "sglang": Levers("auto", {k: _FP8_BITS[k] for k in ("fp8_e4m3", "fp8_e5m2")}),
        "ollama": Levers("f16", {k: _GGML_BITS[k] for k in ("q8_0", "q4_0")}),
        "openai": Levers("auto", {**_GGML_BITS, **_FP8_BITS}),
    }
)
"""By engine name; the embedded server's policies are in `local.policies`."""


def bits(engine: EngineSettings, kv_type: str) -> float | None:
    """Bits a value in a cache of this type, in the server's own words; None if unknown."""
    full = 32.0 if engine.dtype == "float32" else 16.0
    known = {"auto": full, "f32": 32.0, "f16": 16.0, "bf16": 16.0, "bfloat16": 16.0}
    return {**known, "float16": 16.0, "float32": 32.0, **_GGML_BITS, **_FP8_BITS}.get(kv_type)


def kv_types(
    engine: EngineSettings, policy: str, params: Mapping[str, Any] = MappingProxyType({})
) -> tuple[str, str]:
    """The server's words for the types of keys and values under a policy."""
    type_k = LEVERS[engine.name].control if policy == FULL_CACHE else policy
    return type_k, str(params.get("type_v", type_k))


def endpoints(engine: EngineSettings) -> dict[str, Endpoint]:
    """Servers that already run, by name: `POLICY` or `POLICY@BUDGET`."""
    return {_canonical(name): endpoint for name, endpoint in engine.addresses.items()}


def fixed_budget(engine: EngineSettings, kv: KV, policy: str) -> float | None:
    """The fraction of the control's bytes a policy always keeps; None: it takes the ladder."""
    endpoint = endpoints(engine).get(policy)
    if endpoint is not None and endpoint.budget is not None:
        return endpoint.budget
    if engine.name == "local" or policy not in LEVERS[engine.name].bits:
        return None
    full = bits(engine, LEVERS[engine.name].control) or 16.0
    both = [bits(engine, t) or full for t in kv_types(engine, policy, kv.params.get(policy, {}))]
    return sum(both) / (2 * full)


def budgets(engine: EngineSettings, kv: KV, policy: str) -> tuple[float, ...]:
    """The budgets of a policy's cells, falling."""
    fixed = fixed_budget(engine, kv, policy)
    if fixed is not None:
        return (fixed,)
    return tuple(budget for budget in sorted(kv.budgets, reverse=True) if budget < 1)


def server_name(engine: EngineSettings, kv: KV, policy: str, budget: float) -> str:
    """Which of an experiment's servers an arm is asked of."""
    if policy == FULL_CACHE:
        return policy
    exact, known = f"{policy}@{budget:g}", endpoints(engine)
    whole = policy in known or fixed_budget(engine, kv, policy) is not None
    return policy if whole and exact not in known else exact


def arms(engine: EngineSettings, kv: KV) -> dict[str, tuple[str, float]]:
    """Policy and budget by the name of the server that has them; the control's first."""
    treated = [(p, b) for p in kv.policies if p != FULL_CACHE for b in budgets(engine, kv, p)]
    return {server_name(engine, kv, p, b): (p, b) for p, b in [(FULL_CACHE, 1.0), *treated]}


def check_policy(engine: EngineSettings, kv: KV, policy: str) -> None:
    """Refuse a policy, or parameters of it, that the engine does not have.

    Raises:
        UsageError: with what is valid.
    """
    params = kv.params.get(policy, {})
    if engine.name == "local":
        get_policy(policy).with_defaults(params)
        return
    if policy != FULL_CACHE:
        _check_reachable(engine, kv, policy)
    _check_params(engine, policy, params)


def check_servers(engine: EngineSettings, kv: KV) -> None:
    """Refuse endpoints that lack an arm, and engines that nobody can start.

    Raises:
        UsageError: with what is missing.
    """
    if engine.name == "local":
        return
    known = endpoints(engine)
    if not (known or engine.launch.command or LEVERS[engine.name].starts):
        raise UsageError(
            f"we cannot start a server of engine.name: {engine.name} by ourselves",
            "valid: base_url, endpoints, or launch: {command: ...}",
        )
    missing = [name for name in arms(engine, kv) if known and name not in known]
    if missing:
        raise UsageError(
            f"no server is named for {', '.join(missing)}",
            f"valid: endpoints: {{{', '.join(f'{name}: URL' for name in missing)}}}",
        )


def _check_reachable(engine: EngineSettings, kv: KV, policy: str) -> None:
    if fixed_budget(engine, kv, policy) is not None:
        return
    named = [name for name in endpoints(engine) if name.startswith(f"{policy}@")]
    if named or "{budget}" in (engine.launch.command or ""):
        return
    if policy in endpoints(engine):
        raise UsageError(
            f"the budget of {policy!r} is not known",
            f"valid: endpoints: {{{policy}: {{base_url: URL, budget: 0.5}}}}, or {policy}@0.5: URL",
        )
    levers = LEVERS[engine.name]
    raise UsageError(
        f"engine {engine.name} has no policy {policy!r}",
        f"valid: {', '.join([FULL_CACHE, *levers.bits])}, or one that endpoints name",
    )


def _check_params(engine: EngineSettings, policy: str, params: Mapping[str, Any]) -> None:
    levers = LEVERS[engine.name]
    valid = levers.params if policy in levers.bits and not engine.addresses else ()
    unknown = sorted(set(params) - set(valid))
    if unknown:
        raise UsageError(
            f"policy {policy}: unknown parameter {unknown[0]!r}",
            f"valid: {', '.join(valid) or 'none, it has no parameters'}",
        )
    types = (levers.control, *levers.bits)
    for name, value in params.items():
        if value not in types:
            raise UsageError(f"policy {policy}: {name} is {value!r}", f"valid: {', '.join(types)}")


def _canonical(name: str) -> str:
    """`snapkv@0.50` and `snapkv@0.5` are one arm."""
    policy, at, budget = name.rpartition("@")
    try:
        return f"{policy}@{float(budget):g}" if at else name
    except ValueError:
        return name
