"""What a class of kvpress is called in an experiment: the field's usual name."""

from __future__ import annotations

import re

_USUAL = {
    "CompressionRatioDecoding": "ratio_decoding",
    "KVCompose": "kvcompose",
    "KeyDiff": "keydiff",
    "LeverageScore": "leverage",
    "NonCausalAttn": "non_causal_attention",
    "PerLayerCompression": "per_layer",
    "QFilter": "qfilter",
    "SimLayerKV": "simlayerkv",
    "ThinK": "think",
}
"""Where the rule makes another name than the one that papers have made usual."""

_WORD = re.compile(r"[A-Z]*[a-z]*KV[a-z]*|[A-Z]+(?![a-z])|[A-Z][a-z]+|[A-Z]+|.")


def name_of(press: str) -> str:
    """`ExpectedAttentionPress` is `expected_attention`, `CriticalAdaKVPress` `critical_adakv`.

    A word ends where the next begins with a capital; KV belongs to the word before it.
    """
    bare = press.removesuffix("Press")
    return _USUAL.get(bare) or "_".join(word.lower() for word in _WORD.findall(bare))
