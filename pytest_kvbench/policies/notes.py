"""What no field of a kvpress class can say: its paper, what it keeps, its floor, what it wraps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pytest_kvbench.policies.params import Param


@dataclass(frozen=True)
class Note:
    """What is known of one press beside its fields; by the name of its policy.

    Attributes:
        text: what it keeps; "": the first words of its documentation.
        paper: of arXiv; "": the one that its documentation names.
        params: ranges and defaults that its fields do not give.
        floor: a prompt must have more tokens.
        needs: the parameter that is such a floor.
        dial: the parameter that the budget sets, where it is not `compression_ratio`.
        whole: the parameter in whose steps it removes, so that a budget is met up to one of them.
        trained: what must be fetched once, and how.
        refused: why it cannot be served at all; "" where it can.
    """

    text: str = ""
    paper: str = ""
    params: Mapping[str, Param] = field(default_factory=dict)
    floor: int = 0
    needs: str = ""
    dial: str = ""
    whole: str = ""
    trained: str = ""
    refused: str = ""


def _inner(name: str, key: str = "press") -> Mapping[str, Param]:
    return {key: Param(name, kind="policy")}


MASKS = "Masks, and frees nothing: its arms are simulated."
CHANNELS = "key_channel_compression_ratio"
_PARTS = "the model's trained parts, which kvpress fetches by the model's name"
_INTERVAL = {"compression_interval": Param(16, low=1)}

NOTES: Mapping[str, Note] = MappingProxyType(
    {
        "adakv": Note(
            f"A share of its own for each head, by the scores of another policy. {MASKS}",
            params=_inner("snapkv"),
        ),
        "block": Note("Another policy, block after block of the prompt.", params=_inner("keydiff")),
        "cam": Note(
            "Merges the values of what another policy would evict into their neighbours, every "
            "`compression_interval` new tokens.",
            params={**_inner("knorm", "base_press"), **_INTERVAL},
            whole="compression_interval",
        ),
        "cap": Note("Keeps what a query anchor finds relevant: capacity of keys, not their size."),
        "chunk": Note("Another policy, chunk by chunk.", params=_inner("knorm")),
        "chunkkv": Note(
            "Whole chunks, by the scores of another policy.",
            params=_inner("snapkv"),
            whole="chunk_length",
        ),
        "compactor": Note("Keeps what leverage scores and non-causal attention find important."),
        "composed": Note(
            "Several policies, each on what the one before has left; they share the budget.",
            params={"presses": Param(None, kind="policies", required=True)},
            dial="presses",
        ),
        "critical_adakv": Note(
            f"criticalkv's second look, a share of its own for each head. {MASKS}",
            params=_inner("snapkv"),
        ),
        "criticalkv": Note(
            "The scores of another policy, weighed by what a token's value adds to the output.",
            params=_inner("snapkv"),
        ),
        "cur": Note("Keeps tokens by approximate leverage scores of keys and values."),
        "decoding": Note(
            "While decoding: every `compression_interval` new tokens the cache is cut back to the "
            "budget's fraction of the prompt.",
            params={**_inner("knorm", "base_press"), **_INTERVAL},
            whole="compression_interval",
        ),
        "dms": Note(
            f"Masks what another policy scores below a threshold. {MASKS}",
            params={
                **_inner("knorm"),
                "threshold": Param(None, low=-1e6, kind="number", required=True),
            },
        ),
        "duo_attention": Note(
            f"Whole heads see the first and the most recent tokens alone. {MASKS}",
            trained="a pattern of the model's heads, which kvpress has for a few models "
            "(on_the_fly_scoring: true makes one, of the data set kmfoda/booksum)",
        ),
        "entropy_gated_chunkkv": Note(
            "Chunks of another policy's scores, shorter where these are of low entropy.",
            params=_inner("snapkv"),
        ),
        "expected_attention_stats": Note(
            "expected_attention with statistics of the model's queries, made before.",
            paper="2510.00636",
            trained=f"{_PARTS}, or statistics of yours (stats_folder)",
        ),
        "fastkvzip": Note(
            f"kvzip's scores by trained gates, in one pass. {MASKS}",
            trained=f"{_PARTS}: hf download Jang-Hyun/Fast-KVzip",
        ),
        "finch": Note(
            "Keeps what the question attends to, at new positions.",
            paper="2408.00167",
            refused="needs a token of its own between context and question, by which it changes "
            "the model's vocabulary: no other arm would be asked of the same model",
        ),
        "key_rerotation": Note(
            "Another policy's choice, its keys turned to positions without gaps.",
            params=_inner("snapkv"),
        ),
        "kvcompose": Note(
            "Composes tokens of each head's own choice; layers differ in length. Two passes."
        ),
        "kvgrad": Note(
            f"Keeps what changes the last layer most, by gradients. {MASKS} Two passes."
        ),
        "kvzap": Note(
            "kvzip's scores by a trained surrogate.",
            trained=f"{_PARTS}: hf download nvidia/KVzap-mlp-MODEL",
        ),
        "kvzip": Note(
            f"Keeps what is needed to repeat the prompt. {MASKS} Two passes; it must see the "
            "context alone to be fair to it.",
        ),
        "lagkv": Note("Keeps tokens that differ from those that follow."),
        "leverage": Note("Keeps tokens by approximate leverage scores of keys."),
        "lukv": Note(
            f"A share of its own for each head, from a trained curve. {MASKS}",
            trained="a budget curve of the model's, which kvpress has for Llama-3.1-8B",
        ),
        "merging": Note(
            "Folds what another policy evicts into the most similar token that stays.",
            params=_inner("snapkv"),
        ),
        "non_causal_attention": Note("Keeps what is attended to without a causal mask, by chunks."),
        "observed_attention": Note(
            "Keeps what was attended to on average (H2O's score); needs eager attention."
        ),
        "per_layer": Note(
            "Another policy, each layer with a ratio of its own; their mean is the budget.",
            params=_inner("knorm"),
        ),
        "prefill_decoding": Note(
            "One policy for the prompt, another while decoding.",
            params={
                "prefilling_press": Param("snapkv", kind="policy"),
                "decoding_press": Param("decoding", kind="policy"),
            },
        ),
        "qfilter": Note(
            "Keeps keys by trained directions of the model's queries.",
            trained=f"{_PARTS}: hf download nthngdy/MODEL_qfilt",
        ),
        "ratio_decoding": Note(
            "While decoding: every `compression_interval` new tokens the cache is cut back to the "
            "budget's fraction of all tokens so far.",
            params={**_inner("knorm", "base_press"), **_INTERVAL},
            whole="compression_interval",
        ),
        "restorekv": Note(
            f"kvzip with learned tokens that restore what is lost. {MASKS}",
            trained="embeddings and an adapter, which exist for two models of 8B, and the package "
            "peft",
        ),
        "simlayerkv": Note(
            "Layers that look at the first and most recent tokens alone keep only these."
        ),
        "think": Note(
            "Zeroes channels of keys, which frees nothing: its arms are simulated, and a budget "
            "below 0.5 cannot be met.",
            dial=CHANNELS,
        ),
    }
)
"""Of all but the nine that `table` has whole."""
