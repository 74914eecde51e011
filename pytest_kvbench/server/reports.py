"""What an arm's cache is, as its reply says it."""

from __future__ import annotations

from dataclasses import replace

from pytest_kvbench.server.jobs import ArmReport, ArmSpec
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.ragged import RowKV
from pytest_kvbench.server.solo import SoloKV, token_bytes

_SAME = 0.005
"""So near to each other a cache's bytes and those of them in use are the same."""


def report(
    model: LocalModel, arm: ArmSpec, kv: RowKV | SoloKV, tokens: int, note: str = ""
) -> ArmReport:
    """What a cache is after a prompt of so many tokens, before the first new one."""
    full = int(token_bytes(model) * tokens)
    if isinstance(kv, SoloKV):
        kept, used = kv.sizes.moments[-1].kept, kv.sizes.moments[-1].used
    else:
        kept, used = kv.nbytes, kv.nbytes - kv.idle_bytes
    return ArmReport(
        policy=arm.policy.name,
        budget=arm.budget,
        achieved=used / full,
        kept_bytes=kept,
        full_bytes=full,
        kept_tokens=kv.tokens,
        question_aware=arm.context is None,
        note=note,
        simulated=(kept - used) / full > _SAME,
    )


def final(begun: ArmReport, kv: SoloKV) -> ArmReport:
    """The report at the end of a reply, of a cache that its policy may have changed meanwhile.

    A cache of fewer bits was what it is when the reply began: that figure stays.
    """
    whole = replace(begun, while_decoding=kv.sizes.report())
    if not kv.acts:
        return whole
    since = kv.sizes.acted
    kept, full = sum(one.kept for one in since), sum(one.full for one in since)
    return replace(
        whole,
        achieved=kv.sizes.achieved,
        kept_bytes=kept // len(since),
        full_bytes=full // len(since),
        kept_tokens=kv.tokens,
        simulated=kept / full - kv.sizes.achieved > _SAME,
    )


def failed(arm: ArmSpec, error: Exception | None) -> ArmReport:
    """Of an arm that has no cache: why."""
    aware = arm.context is None
    return ArmReport(arm.policy.name, arm.budget, 0.0, 0, 0, 0.0, aware, "", error=str(error))
