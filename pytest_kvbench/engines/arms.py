"""An experiment's arms on its engine: budgets, servers, and what the engine refuses.

A server that stores keys and values in another type keeps a fixed fraction of the control's bytes:
such a policy makes one cell and ignores the ladder. Asks nobody, so that a plan may use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.engines.policies import base_of, params_of
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.engine import Endpoint, EngineSettings, Launch
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.hints import did_you_mean
from pytest_kvbench.policies.kv_types import bits
from pytest_kvbench.policies.table import catalogue
from pytest_kvbench.records import FULL_CACHE, WITHHELD, Params
from pytest_kvbench.wire.addresses import is_same_address

BITS = "bits"
"""The parameter of a type that we have no size of: bits a value, scales included."""
_MOST_BITS = 64


def kv_types(
    engine: EngineSettings, policy: str, params: Params = MappingProxyType({})
) -> tuple[str, str]:
    """The server's words for the types of keys and values under a policy."""
    type_k = kind_of(engine).control if policy == FULL_CACHE else policy
    return type_k, str(params.get("type_v", type_k))


def endpoints(engine: EngineSettings) -> dict[str, Endpoint]:
    """Servers that already run, by name: `POLICY` or `POLICY@BUDGET`."""
    return {_canonical(name): endpoint for name, endpoint in engine.addresses.items()}


def fixed_budget(engine: EngineSettings, kv: KV, policy: str) -> float | None:
    """The fraction of the control's bytes a policy always keeps; None: it takes the ladder."""
    endpoint = endpoints(engine).get(policy)
    if endpoint is not None and endpoint.budget is not None:
        return endpoint.budget
    if policy != WITHHELD and (fixed := kind_of(engine).fixed) is not None:
        return fixed(engine, base_of(kv, policy), params_of(kv, policy))
    params = kv.params.get(policy, {})
    if policy not in kind_of(engine).bits and BITS not in params:
        return None
    return _bits(engine, policy, params) / _bits(engine, FULL_CACHE, {})


def _bits(engine: EngineSettings, policy: str, params: Params) -> float:
    """Bits of a key and a value together in the cache of a policy's server."""
    if BITS in params:
        return 2 * _number_of(params[BITS])
    types = kv_types(engine, policy, params)
    if engine.launch.command:
        types = _commanded(engine, engine.launch.command, policy, types[0])
    full = bits(kind_of(engine).control, engine.dtype) or 16.0
    return sum(bits(kv_type, engine.dtype) or full for kv_type in types)


def _number_of(given: object) -> float:
    """The bits that were declared; what is no number, `_check_bits` refuses."""
    return float(given) if isinstance(given, int | float) else 0.0


def _commanded(engine: EngineSettings, command: str, policy: str, kv: str) -> tuple[str, str]:
    """The types of keys and values that a user's command asks for.

    llama.cpp takes one each, and its own for the one that is not named; others take one for both.
    """
    named = [found[1] if (found := option.search(command)) else None for option in _TYPE_OPTIONS]
    if named == [None, None]:
        return kv, kv
    words = {"{kv}": kv, "{policy}": policy, None: kind_of(engine).control}
    type_k, type_v = (str(words.get(word, word)) for word in named)
    return type_k, type_v


_TYPE_OPTIONS = tuple(
    re.compile(
        rf"(?<![\w-])(?:-ct{x}|--cache-type-{x}|LLAMA_ARG_CACHE_TYPE_{x.upper()})"
        r'[\s=]+["\']?([^\s"\']+)'
    )
    for x in "kv"
)
"""What tells llama.cpp the type of keys, and of values, each with the type."""


def identity_params(engine: EngineSettings, kv: KV, policy: str) -> Params:
    """All that an arm's answers depend on, beside its policy's name and budget."""
    identity = kind_of(engine).identity
    if identity is None or policy in (FULL_CACHE, WITHHELD):
        return dict(kv.params.get(policy, {}))
    return identity(kv, policy)


def budgets(engine: EngineSettings, kv: KV, policy: str) -> tuple[float, ...]:
    """The budgets of a policy's cells, falling."""
    fixed = fixed_budget(engine, kv, policy)
    if fixed is not None:
        return (fixed,)
    return tuple(budget for budget in sorted(kv.budgets, reverse=True) if budget < 1)


def server_name(engine: EngineSettings, kv: KV, policy: str, budget: float) -> str:
    """Which of an experiment's servers an arm is asked of; the control's may have them all."""
    if policy in (FULL_CACHE, WITHHELD) or kind_of(engine).one_server:
        return FULL_CACHE
    exact, declared = f"{policy}@{budget:g}", endpoints(engine)
    whole = policy in declared or fixed_budget(engine, kv, policy) is not None
    return policy if whole and exact not in declared else exact


def address_of(engine: EngineSettings, kv: KV, policy: str, budget: float) -> str | None:
    """Where an arm is asked, several addresses with commas; None where a run starts the server."""
    endpoint = endpoints(engine).get(server_name(engine, kv, policy, budget))
    return ", ".join(endpoint.urls) if endpoint else None


def arms(engine: EngineSettings, kv: KV) -> dict[str, tuple[str, float]]:
    """Policy and budget by the name of the server that has them; the control's first."""
    treated = [(p, b) for p in kv.policies if p != FULL_CACHE for b in budgets(engine, kv, p)]
    return {server_name(engine, kv, p, b): (p, b) for p, b in [(FULL_CACHE, 1.0), *treated]}


def check_policy(engine: EngineSettings, kv: KV, policy: str) -> None:
    """Refuse a policy, or parameters of it, that the engine does not have.

    Raises:
        UsageError: with what is valid.
    """
    if (check := kind_of(engine).check_policy) is not None:
        check_named(kv, policy)
        check(engine, base_of(kv, policy), params_of(kv, policy))
        return
    params = kv.params.get(policy, {})
    _check_bits(policy, params.get(BITS))
    if policy != FULL_CACHE:
        _check_reachable(engine, kv, policy)
    _check_params(engine, policy, params)


def check_named(kv: KV, policy: str) -> None:
    """Refuse a name of one's own for a combination that says no policy, or is a policy's.

    Raises:
        UsageError: with what is valid.
    """
    if policy not in kv.named:
        return
    valid = f"valid: kv.named: {{{policy}: {{policy: adakv, press: expected_attention}}}}"
    if not isinstance(kv.named[policy].get("policy"), str):
        raise UsageError(f"kv.named.{policy} names no policy", valid)
    if policy in catalogue() or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", policy):
        raise UsageError(f"kv.named.{policy}: the name is taken, or none", valid)


def check_servers(engine: EngineSettings, kv: KV) -> None:
    """Refuse endpoints that lack an arm or serve no purpose, and engines that nobody can start.

    Raises:
        UsageError: with what is missing.
    """
    kind, declared = kind_of(engine), endpoints(engine)
    if kind.only_ours and declared:
        raise UsageError(
            f"a run starts engine.name: {engine.name} by itself, and asks no other server",
            "valid: neither base_url nor endpoints, and mode: live",
        )
    if kind.one_server and (engine.endpoints or engine.launch != Launch()):
        raise UsageError(
            f"endpoints and launch are for other engines than {engine.name}, whose one server has "
            "all arms",
            "valid: base_url, or none of them: the run starts its own server",
        )
    if not (declared or engine.launch.command or kind.start):
        raise UsageError(
            f"we cannot start a server of engine.name: {engine.name} by ourselves",
            "valid: base_url, endpoints, or launch: {command: ...}",
        )
    missing = [name for name in arms(engine, kv) if declared and name not in declared]
    if missing:
        raise UsageError(
            f"no server is named for {', '.join(missing)}",
            f"valid: endpoints: {{{', '.join(f'{name}: URL' for name in missing)}}}",
        )
    _check_apart(engine, kv)


def _check_apart(engine: EngineSettings, kv: KV) -> None:
    """Refuse an arm that would be the control: the same body sent to the same server.

    Nothing but its address, or its command line, tells an arm of such an engine from the control.
    """
    declared, command = endpoints(engine), engine.launch.command
    treated = [name for name in arms(engine, kv) if name != FULL_CACHE]
    for name in treated if declared else ():
        same = [url for url in declared[name].urls if _is_among(url, declared[FULL_CACHE].urls)]
        if same and not declared[name].aa:
            raise UsageError(
                f"{name} would be sent the control's requests at the control's address, {same[0]}",
                f"valid: another address, or {{base_url: ..., aa: true}} if {name} is to be an A/A "
                "arm, which changes nothing",
            )
    if treated and command and not declared and not any(word in command for word in _ARM_WORDS):
        raise UsageError(
            f"launch.command starts the control's server for {treated[0]} too: it names no arm",
            f"valid: a command line with one of {', '.join(_ARM_WORDS)}",
        )


_ARM_WORDS = ("{policy}", "{kv}", "{budget}")


def _is_among(url: str, others: Iterable[str]) -> bool:
    return any(is_same_address(url, other) for other in others)


def check_dtype(engine: EngineSettings) -> None:
    """Refuse a dtype that the engine does not serve.

    Raises:
        UsageError: with those it serves.
    """
    dtypes = kind_of(engine).dtypes
    if engine.dtype is not None and engine.dtype not in dtypes:
        raise UsageError(
            f"{engine.dtype} is not served by engine.name: {engine.name}",
            f"valid: {', '.join(dtypes)}",
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
    named = [name.partition("@")[0] for name in endpoints(engine)]
    names = list(dict.fromkeys([FULL_CACHE, *kind_of(engine).bits, *named]))
    typed = f", or a type by its bits a value, kv.params: {{{policy}: {{{BITS}: 4.5}}}}"
    raise UsageError(
        f"engine {engine.name} has no policy {policy!r}",
        f"{did_you_mean(policy, names)}valid: {', '.join(names)}, or one that endpoints name"
        f"{typed if _takes_types(engine) else ''}",
    )


def _takes_types(engine: EngineSettings) -> bool:
    """Whether a policy is a type that the server is started with, ours to know or not."""
    kind = kind_of(engine)
    return bool(kind.bits) and not kind.only_ours


def _check_params(engine: EngineSettings, policy: str, params: Params) -> None:
    kind = kind_of(engine)
    ours = not engine.addresses and not engine.launch.command
    valid = kind.params if policy in kind.bits and ours else ()
    if policy not in kind.bits and policy != FULL_CACHE and _takes_types(engine):
        valid = (BITS,)
    unknown = sorted(set(params) - set(valid))
    if unknown:
        raise UsageError(
            f"policy {policy}: unknown parameter {unknown[0]!r}",
            f"valid: {', '.join(valid) or 'none, it has no parameters'}",
        )
    for name, value in params.items():
        if name != BITS and value not in kind.types:
            valid_types = f"valid: {', '.join(kind.types)}"
            raise UsageError(f"policy {policy}: {name} is {value!r}", valid_types)


def _check_bits(policy: str, bits_of_value: Any) -> None:
    is_number = isinstance(bits_of_value, int | float) and not isinstance(bits_of_value, bool)
    if bits_of_value is not None and not (is_number and 0 < bits_of_value <= _MOST_BITS):
        raise UsageError(
            f"policy {policy}: {BITS} is {bits_of_value!r}",
            "valid: bits a value with its share of the scales, as in 4.5",
        )


def _canonical(name: str) -> str:
    """`snapkv@0.50` and `snapkv@0.5` are one arm."""
    policy, at, budget = name.rpartition("@")
    try:
        return f"{policy}@{float(budget):g}" if at else name
    except ValueError:
        return name
