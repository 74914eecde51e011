"""Every policy on the real model, beside kvpress's own pipeline: the table of docs/policies.md.

    python -m tests.support.every_policy [--look] [NAME ...]

Five prompts in float32: a context that the policy compresses, and a question behind it. What the
embedded server answers must be what kvpress answers where it is used directly.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.policies.table import Policy, catalogue, checked
from tests.model.conftest import MODEL, prompt_parts

BUDGET = 0.6
NEW_TOKENS = 12
SEED = 0
DOCS = Path(__file__).parents[2] / "docs" / "policies.md"
_LAYERS = 30

PARAMS: Mapping[str, Mapping[str, Any]] = {
    "cam": {"compression_interval": 4},
    "composed": {"presses": ["knorm", {"policy": "snapkv", "window_size": 32}]},
    "decoding": {"compression_interval": 4},
    "dms": {"threshold": -14.5, "sliding_window_size": 32, "budget": BUDGET},
    "per_layer": {"compression_ratios": [0.4, 0.6] * (_LAYERS // 2)},
    "prefill_decoding": {"decoding_press": {"policy": "decoding", "compression_interval": 4}},
    "ratio_decoding": {"compression_interval": 4},
    "simlayerkv": {"lazy_threshold": 0.5, "n_recent": 64, "budget": BUDGET},
}
"""Where a policy's defaults do nothing on prompts of 250 tokens, or something must be given."""


@dataclass(frozen=True)
class Seen:
    """What one policy did on some prompts; `why` it could not."""

    policy: Policy
    equal: int = 0
    of: int = 0
    achieved: float | None = None
    simulated: bool = False
    how: str = ""
    seconds: float = 0.0
    why: str = ""


class Bench:
    """The embedded engine, and kvpress with a model of its own, in one process."""

    def __init__(self, served: Any, network: Any, tokenizer: Any) -> None:
        from pytest_kvbench.server.engine import Engine
        from pytest_kvbench.server.making import Maker
        from pytest_kvbench.server.reuse import PrefillCache

        self.served, self.network, self.tokenizer = served, network, tokenizer
        self.engine = Engine(served, PrefillCache(0))
        self.maker = Maker(served)

    @classmethod
    def real(cls, threads: int) -> Bench:
        """That of the packaged model."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from pytest_kvbench.server import model, weights

        folder = weights.materialise(weights.resolve(MODEL))
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        served = model.load(folder, "float32", "cpu", threads)
        return cls(served, network, AutoTokenizer.from_pretrained(folder))

    def see(self, name: str, prompts: int) -> Seen:
        """Ask both for the answers to so many prompts."""
        policy, params = checked(name, PARAMS.get(name, {}))
        equal, reports, how, started = 0, [], "pipeline", time.perf_counter()
        for index in range(prompts):
            context, question = self.ids(index)
            arm = self.arm(policy, params, BUDGET, len(context))
            [(text, report)] = self.ours([arm], [*context, *question])
            if report.error:
                return Seen(policy, why=report.error)
            theirs, how = self.theirs(arm, context, question)
            equal += text == theirs
            reports.append(report)
        return Seen(
            policy,
            equal,
            prompts,
            sum(one.achieved for one in reports) / len(reports),
            any(one.simulated for one in reports),
            how,
            time.perf_counter() - started,
        )

    def ids(self, index: int) -> tuple[list[int], list[int]]:
        """Context and question in tokens, split where the server splits them."""
        context, question = prompt_parts(index)
        text = self.served.render([{"role": "user", "content": context + question}])
        ids, ends = self.served.encode(text)
        start = sum(end <= text.index(question) for end in ends)
        return ids[:start], ids[start:]

    def arm(self, policy: Policy, params: Any, budget: float, context: int | None) -> Any:
        """What the engine is asked for; a policy of fixed ratio has its own budget."""
        from pytest_kvbench.server.engine import ArmSpec

        return ArmSpec(policy, params, policy.fixed_budget(params) or budget, context)

    def ours(
        self, arms: Sequence[Any], ids: Sequence[int], new_tokens: int = NEW_TOKENS
    ) -> list[tuple[str, Any]]:
        """The embedded engine's answers to one request for these arms, and its reports."""
        from pytest_kvbench.server.drawing import Sampling
        from pytest_kvbench.server.engine import Job, Piece

        events: list[Any] = []
        sampling = Sampling(0.0, 1.0, SEED)
        rows = self.engine.start(Job(list(ids), arms, new_tokens, sampling, [], events.append))
        while rows:
            rows = self.engine.step(rows)
        texts, reports = [""] * len(arms), list(events[0])
        for piece in (event for event in events if isinstance(event, Piece)):
            texts[piece.index] += piece.text
            reports[piece.index] = piece.report or reports[piece.index]
        return list(zip(texts, reports, strict=True))

    def theirs(
        self, arm: Any, context: list[int], question: list[int], new_tokens: int = NEW_TOKENS
    ) -> tuple[str, str]:
        """kvpress's own answer, or that of transformers' own cache, and how it was asked."""
        import torch
        from kvpress import KVPressTextGenerationPipeline

        if arm.policy.serving == "quantised":  # kvpress's pipeline cuts no packed tensors
            return self.stepwise(arm, context, question, new_tokens), "transformers"
        attention = "eager" if arm.policy.eager else "sdpa"
        self.network.config._attn_implementation = attention
        pipeline = KVPressTextGenerationPipeline(model=self.network, tokenizer=self.tokenizer)
        tensors = {"context_ids": torch.tensor([context])}
        try:
            # Layers of different lengths take one token at a time, which the pipeline does not.
            (answer,) = pipeline._forward(
                {**tensors, "questions_ids": [torch.tensor([question])]},
                new_tokens,
                self._press(arm, len(context) + len(question)),
                self._cache(arm),
            )
        except RuntimeError:
            return self.stepwise(arm, context, question, new_tokens), "token by token"
        return str(answer), "pipeline"

    def _press(self, arm: Any, tokens: int) -> Any:
        import torch

        from pytest_kvbench.server.jobs import removed
        from pytest_kvbench.server.making import Wanted

        if arm.policy.serving == "quantised":
            return None
        target = round(arm.budget * tokens)
        wanted = Wanted(arm.policy, arm.params, removed(arm, tokens), target)
        press = self.maker.press(wanted, prepared=False)
        torch.manual_seed(SEED)
        return press

    def _cache(self, arm: Any) -> Any:
        from transformers import DynamicCache

        from pytest_kvbench.server.alone import _quantised
        from pytest_kvbench.server.making import Wanted

        if arm.policy.serving != "quantised":
            return DynamicCache()
        return _quantised(self.served, Wanted(arm.policy, arm.params, 0.5))

    def stepwise(
        self, arm: Any, context: list[int], question: list[int], new_tokens: int = NEW_TOKENS
    ) -> str:
        """As the pipeline, but token by token; without a question, behind the whole prompt."""
        import torch
        from kvpress import KeyRerotationPress

        cache, press = self._cache(arm), self._press(arm, len(context) + len(question))
        tokens, new = list(question), list[int]()
        with torch.inference_mode():
            with press(self.network) if press else nullcontext():
                output = self.network(torch.tensor([context]), past_key_values=cache)
            turned = isinstance(press, KeyRerotationPress)
            at = cache.get_seq_length() if turned else len(context)
            while True:
                if not tokens:
                    new.append(int(output.logits[0, -1].argmax()))
                    tokens.append(new[-1])
                    if len(new) == new_tokens or new[-1] == self._end:
                        break
                output = self.network(
                    torch.tensor([[tokens.pop(0)]]),
                    past_key_values=cache,
                    position_ids=torch.tensor([[at]]),
                )
                at += 1
        return str(self.tokenizer.decode(new, skip_special_tokens=True))

    @property
    def _end(self) -> Any:
        return self.network.generation_config.eos_token_id


def row(one: Seen) -> str:
    """What was seen of a policy as a row of the table."""
    name, served = f"`{one.policy.name}`", one.policy.served
    if one.why:
        return f"| {name} | {served} | | | not run here: {_brief(one.why)} |"
    proof = "`simulated`" if one.simulated else "`proven`"
    how = {"pipeline": "", "transformers": ", transformers' own cache"}.get(one.how, f", {one.how}")
    kept = "" if one.achieved is None else f"{one.achieved:.2f}"
    return f"| {name} | {served} | {proof} | {kept} | {one.equal} of {one.of}{how} |"


def with_row(page: str, one: Seen) -> str:
    """The page with a policy's row in its table, in the order of the catalogue."""
    before, mark, rest = page.partition(_MARKS[0])
    old, end, after = rest.partition(_MARKS[1])
    rows = {line.split("`")[1]: line for line in old.splitlines() if line.startswith("| `")}
    rows[one.policy.name] = row(one)
    lines = [*_HEAD, *(rows[name] for name in catalogue() if name in rows)]
    return before + mark + "\n".join(lines) + "\n" + end + after


_MARKS = "<!-- seen -->\n\n", "\n<!-- end seen -->"
_HEAD = ("| policy | served by | proof | kept of 0.6 | equal to kvpress |", "|" + "---|" * 5)


def _brief(why: str) -> str:
    """What is lacking, without the library's own words, which name folders of this machine."""
    needs = re.search(r"It needs (.*)\.$", why)
    return (needs[1] if needs else why.partition(": ")[2])[:160].replace("|", "/")


def main() -> int:
    """Run and print; each row replaces the policy's in docs/policies.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--look", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    bench = Bench.real(options.threads)
    every = [name for name, policy in catalogue().items() if name != "none"]
    seen = []
    for name in options.names or every:
        policy = catalogue()[name]
        one = (
            Seen(policy, why=f"{name}: {policy.refused}")
            if policy.refused
            else bench.see(name, options.prompts)
        )
        seen.append(one)
        print(name, one.equal, one.of, one.achieved, one.how, f"{one.seconds:.1f}", one.why)
        sys.stdout.flush()
        if not options.look:
            DOCS.write_text(with_row(DOCS.read_text(), one))
    return int(any(one.equal != one.of for one in seen))


if __name__ == "__main__":
    sys.exit(main())
