"""From a policy and its parameters to a press: an object of kvpress's class, or of a user's."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import kvpress
import torch

from pytest_kvbench.policies.policy import EXPECTED, recipe_of
from pytest_kvbench.policies.table import Policy, checked
from pytest_kvbench.records import Params
from pytest_kvbench.server.model import LocalModel


class PolicyError(Exception):
    """A policy that cannot do what it was asked to: its own arm has no answer, others do."""


@dataclass(frozen=True)
class Wanted:
    """What a press is made for.

    Attributes:
        policy: whose press.
        params: all of its parameters.
        ratio: the share of what it compresses that it removes.
        target: the tokens that a policy which acts while decoding cuts back to.
    """

    policy: Policy
    params: Params
    ratio: float
    target: int = 1

    @property
    def key(self) -> str:
        """The same for the same policy and parameters, whatever its budget."""
        return json.dumps([self.policy.name, self.params], sort_keys=True)


class Maker:
    """Makes presses for a model; remembers what cannot be made, as looking for it takes long."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self._absent: dict[str, str] = {}
        for layer in model.attention_layers:  # as kvpress's context manager does
            layer.rotary_emb = model.network.model.rotary_emb

    def press(self, wanted: Wanted, *, prepared: bool = True) -> Any:
        """A new press.

        Args:
            wanted: what for.
            prepared: whether to prepare it as kvpress's context manager does; else that will.

        Raises:
            PolicyError: its class refuses the parameters, or lacks parts that must be fetched.
        """
        if wanted.key in self._absent:
            raise PolicyError(self._absent[wanted.key])
        try:
            press = self._make(wanted)
            if prepared or _needs_parts(wanted.policy, wanted.params):
                press.post_init_from_model(self._model.network)
        except PolicyError:
            raise
        except Exception as error:  # it may look for anything, anywhere
            failed = failure(wanted.policy, error, wanted.params)
            if _needs_parts(wanted.policy, wanted.params):
                self._absent[wanted.key] = str(failed)
            raise failed from error
        return press

    def _make(self, wanted: Wanted) -> Any:
        policy, budget = wanted.policy, 1 - wanted.ratio
        given = {n: v for n, v in wanted.params.items() if v is not None and n != EXPECTED}
        dials = policy.dial.split(",")
        for name, param in policy.params.items():
            if param.holds_policies and name in given:
                own = name in dials
                one_or_many = given[name]
                many = one_or_many if isinstance(one_or_many, list | tuple) else [one_or_many]
                # Several in a row keep a part of what the one before has left.
                share = 1 - budget ** (1 / len(many)) if own else 0.0
                made = [self._make(_inner(one, share, wanted.target)) for one in many]
                given[name] = made if param.is_of == "policies" else made[0]
        if policy.dial in _DIALS:
            given[policy.dial] = _DIALS[policy.dial](wanted)
        kind: Any = self._model.classes.get(policy.name) or getattr(kvpress, policy.press)
        ratio = {"compression_ratio": wanted.ratio}
        takes = "compression_ratio" in inspect.signature(kind).parameters
        press: Any = kind(**given, **(ratio if takes and policy.dial in ratio else {}))
        if policy.dial in ratio and not takes:
            press.compression_ratio = wanted.ratio
        return press


def _inner(value: object, ratio: float, target: int) -> Wanted:
    policy, params = checked(*recipe_of(value))
    return Wanted(policy, params, ratio, target)


def _channels(wanted: Wanted) -> float:
    """Keys are half of the cache: their channels give twice what the whole must."""
    if wanted.ratio > 0.5:
        raise PolicyError(
            f"policy {wanted.policy.name}: channels of keys are half of a cache, so that it cannot "
            f"keep {1 - wanted.ratio:.2f} of it. Valid: a budget of at least 0.5."
        )
    return 2 * wanted.ratio


_DIALS: Mapping[str, Callable[[Wanted], float]] = {
    "key_channel_compression_ratio": _channels,
    "target_size": lambda wanted: wanted.target,
    "target_compression_ratio": lambda wanted: wanted.ratio,
}


def failure(policy: Policy, error: Exception, params: Params) -> PolicyError:
    """What went wrong in a policy's class, with what it lacks where that may be why."""
    lines = str(error).splitlines()
    words = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return PolicyError(f"policy {policy.name}: the device has no memory left for it: {words}")
    parts = _needs_parts(policy, params)
    if not parts:
        return PolicyError(f"policy {policy.name}: its class failed: {words}")
    return PolicyError(
        f"policy {policy.name}: what it needs is not here: {words}. It needs {parts}."
    )


def _needs_parts(policy: Policy, params: Params) -> str:
    """What a policy, or one that it wraps, needs fetched."""
    inner = (_needs_parts(*checked(name, its)) for name, its in policy.inner(params))
    return policy.trained or next(filter(None, inner), "")
