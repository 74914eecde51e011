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
from collections.abc import Mapping
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

    def __init__(self, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from pytest_kvbench.server import model, weights
        from pytest_kvbench.server.engine import Engine
        from pytest_kvbench.server.making import Maker
        from pytest_kvbench.server.reuse import PrefillCache

        folder = weights.materialise(weights.resolve(MODEL))
        self.served = model.load(folder, "float32", "cpu", threads)
        self.engine = Engine(self.served, PrefillCache(0))
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.maker = Maker(self.served)

    def see(self, name: str, prompts: int) -> Seen:
        """Ask both for the answers to so many prompts."""
        policy, params = checked(name, PARAMS.get(name, {}))
        equal, reports, how, started = 0, [], "pipeline", time.perf_counter()
        for index in range(prompts):
            context, question = self._ids(index)
            text, report = self._ours(policy, params, context, question)
            if report.error:
                return Seen(policy, why=report.error)
            theirs, how = self._theirs(policy, params, context, question)
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

    def _ids(self, index: int) -> tuple[list[int], list[int]]:
        """Context and question in tokens, split where the server splits them."""
        context, question = prompt_parts(index)
        text = self.served.render([{"role": "user", "content": context + question}])
        ids, ends = self.served.encode(text)
        start = sum(end <= text.index(question) for end in ends)
        return ids[:start], ids[start:]

    def _ours(
        self, policy: Policy, params: Any, context: list[int], question: list[int]
    ) -> tuple[str, Any]:
        from pytest_kvbench.server.drawing import Sampling
        from pytest_kvbench.server.engine import ArmSpec, Job, Piece

        events: list[Any] = []
        arm = ArmSpec(policy, params, policy.fixed_budget(params) or BUDGET, len(context))
        sampling = Sampling(0.0, 1.0, SEED)
        rows = self.engine.start(
            Job([*context, *question], [arm], NEW_TOKENS, sampling, [], events.append)
        )
        while rows:
            rows = self.engine.step(rows)
        pieces = [event for event in events if isinstance(event, Piece)]
        final = next((p.report for p in pieces if p.report is not None), events[0][0])
        return "".join(piece.text for piece in pieces), final

    def _theirs(
        self, policy: Policy, params: Any, context: list[int], question: list[int]
    ) -> tuple[str, str]:
        """kvpress's own answer, or that of transformers' own cache, and how it was asked."""
        import torch
        from kvpress import KVPressTextGenerationPipeline

        if (
            policy.serving == "quantised"
        ):  # kvpress's pipeline cuts no cache whose tensors are packed
            return self._stepwise(policy, params, context, question), "transformers"
        attention = "eager" if policy.eager else "sdpa"
        self.network.config._attn_implementation = attention
        pipeline = KVPressTextGenerationPipeline(model=self.network, tokenizer=self.tokenizer)
        tensors = {"context_ids": torch.tensor([context])}
        try:
            # Layers of different lengths take one token at a time, which the pipeline does not.
            (answer,) = pipeline._forward(
                {**tensors, "questions_ids": [torch.tensor([question])]},
                NEW_TOKENS,
                self._press(policy, params, context, question),
                self._cache(policy, params),
            )
        except RuntimeError:
            return self._stepwise(policy, params, context, question), "token by token"
        return str(answer), "pipeline"

    def _press(self, policy: Policy, params: Any, context: list[int], question: list[int]) -> Any:
        import torch

        from pytest_kvbench.server.engine import ArmSpec
        from pytest_kvbench.server.jobs import removed
        from pytest_kvbench.server.making import Wanted

        if policy.serving == "quantised":
            return None
        arm = ArmSpec(policy, params, policy.fixed_budget(params) or BUDGET, len(context))
        tokens = len(context) + len(question)
        wanted = Wanted(policy, params, removed(arm, tokens), round(arm.budget * tokens))
        press = self.maker.press(wanted, prepared=False)
        torch.manual_seed(SEED)
        return press

    def _cache(self, policy: Policy, params: Any) -> Any:
        from transformers import DynamicCache

        from pytest_kvbench.server.alone import _quantised
        from pytest_kvbench.server.making import Wanted

        if policy.serving != "quantised":
            return DynamicCache()
        return _quantised(self.served, Wanted(policy, params, 0.5))

    def _stepwise(
        self, policy: Policy, params: Any, context: list[int], question: list[int]
    ) -> str:
        import torch

        cache = self._cache(policy, params)
        press = self._press(policy, params, context, question)
        with torch.inference_mode():
            with press(self.network) if press else nullcontext():
                self.network.model(input_ids=torch.tensor([context]), past_key_values=cache)
            tokens, at, new = list(question), len(context), []
            while len(new) < NEW_TOKENS:
                output = self.network(
                    torch.tensor([[tokens.pop(0)]]),
                    past_key_values=cache,
                    position_ids=torch.tensor([[at]]),
                )
                at += 1
                if not tokens:
                    new.append(int(output.logits[0, -1].argmax()))
                    tokens.append(new[-1])
                    if new[-1] == self.network.generation_config.eos_token_id:
                        break
        return str(self.tokenizer.decode(new, skip_special_tokens=True))


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
    bench = Bench(options.threads)
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
