"""What an arm of the embedded engine is: its policy, by whatever name, with all it depends on."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.policies.own import CLASSES
from pytest_kvbench.policies.table import POLICIES, get_policy, sources
from pytest_kvbench.records import FULL_CACHE, WITHHELD, Arm, Params
from pytest_kvbench.wire import sound

EMBEDDED = "local"
POLICY, SOURCES = "policy", "sources"
"""Of an arm's parameters: what its name stands for, and the digests of users' classes in it."""


def base_of(kv: KV, policy: str) -> str:
    """The policy that a name of `kv.named` stands for; else the policy itself."""
    return str(kv.named.get(policy, {}).get(POLICY, policy))


def params_of(kv: KV, policy: str) -> Params:
    """The parameters of a policy: of its recipe, where it has one, and those of `kv.params`."""
    recipe = {name: value for name, value in kv.named.get(policy, {}).items() if name != POLICY}
    return {**recipe, **kv.params.get(policy, {})}


def recipe_of(kv: KV, policy: str) -> Params:
    """The parameters of a policy, and the policy that its name stands for, if it is another."""
    named = {POLICY: base_of(kv, policy)} if policy in kv.named else {}
    return {**named, **params_of(kv, policy)}


def identity_of(kv: KV, policy: str) -> Params:
    """All that an arm's answers depend on, beside its policy's name and budget."""
    digests = _digests(kv, policy)
    return {**recipe_of(kv, policy), **({SOURCES: digests} if digests else {})}


def _digests(kv: KV, policy: str) -> dict[str, str]:
    base = base_of(kv, policy)
    return {} if base in POLICIES else sources(base, params_of(kv, policy))  # those wrap none


def classes_of(kv: KV) -> dict[str, str]:
    """The users' classes in an experiment's policies, as they are called there: their digests."""
    found: dict[str, str] = {}
    for policy in kv.policies:
        found |= _digests(kv, policy)
    return found


def as_option(name: str) -> str:
    """A user's class as a server's command line takes it: the class, or a name for one."""
    spec = CLASSES.spec_of(name)
    return name if name == spec else f"{name}={spec}"


def split(arm: Arm) -> tuple[str, Params, Mapping[str, str]]:
    """The policy that serves an arm, its own parameters and the digests.

    Where the context is withheld, the full cache answers.
    """
    params = dict(arm.params)
    digests = {name: str(of) for name, of in sound.fields(params.pop(SOURCES, None)).items()}
    name = FULL_CACHE if arm.policy == WITHHELD else arm.policy
    return str(params.pop(POLICY, name)), params, digests


def slack_of(arm: Arm, tokens: int) -> float:
    """How far an arm may be off its budget by its policy's own nature, see `Policy.slack`."""
    if arm.engine != EMBEDDED:
        return 0.0
    policy, params, _ = split(arm)
    try:
        return get_policy(policy).slack(params, tokens)
    except UsageError:  # of answers that were stored when there was such a policy
        return 0.0


def may_mask(arm: Arm) -> bool:
    """Whether an arm may hold more than is in use; the policies of the table evict."""
    return arm.engine == EMBEDDED and split(arm)[0] not in POLICIES
