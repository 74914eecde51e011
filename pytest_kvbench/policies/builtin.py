"""Nine policies and the full cache, whole: for who asks a server elsewhere and has no kvpress.

A policy's score and its selection are kvpress's own; this table only says which class makes them
and what may be set.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.policies.params import Param
from pytest_kvbench.policies.policy import Policy
from pytest_kvbench.records import FULL_CACHE

_WINDOW = {
    "window_size": Param(64, low=1),
    "kernel_size": Param(5, low=1, high=4095, odd=True),
}

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            Policy(FULL_CACHE, "", "", "The full cache: nothing is removed."),
            Policy(
                "snapkv",
                "SnapKVPress",
                "2404.14469",
                "Keeps what the last tokens attend to. Window 64, mean pooling of 5: not the "
                "paper's code (window 32, max pooling of 7).",
                _WINDOW,
                needs="window_size",
            ),
            Policy("knorm", "KnormPress", "2406.11430", "Keeps keys of small norm."),
            Policy(
                "streaming_llm",
                "StreamingLLMPress",
                "2309.17453",
                "Keeps the first tokens and the most recent ones, at their original positions.",
                {"n_sink": Param(4)},
                needs="n_sink",
                score_uses_budget=True,
            ),
            Policy(
                "tova",
                "TOVAPress",
                "2401.06104",
                "Keeps what the last token attends to.",
                floor=1,
            ),
            Policy(
                "expected_attention",
                "ExpectedAttentionPress",
                "2510.00636",
                "Keeps what future queries are expected to attend to.",
                {
                    # kvpress makes a matrix of head_dim x head_dim for each.
                    "n_future_positions": Param(512, low=1, high=4096),
                    "n_sink": Param(4),
                    "use_covariance": Param(True),
                    "use_vnorm": Param(True),
                    "epsilon": Param(0.0),
                },
                needs="n_sink",
            ),
            Policy(
                "random",
                "RandomPress",
                "",
                "Keeps tokens at random, seeded: the baseline any policy must beat.",
                {"seed": Param(0, high=2**63 - 1)},
            ),
            Policy("keydiff", "KeyDiffPress", "2504.15364", "Keeps keys unlike the average key."),
            Policy(
                "pyramidkv",
                "PyramidKVPress",
                "2406.02069",
                "snapkv's scores, more tokens in lower layers. Falls back to snapkv where too few "
                "are kept; the reply's note says so.",
                {**_WINDOW, "beta": Param(20, low=1)},
                needs="window_size",
            ),
        )
    }
)
