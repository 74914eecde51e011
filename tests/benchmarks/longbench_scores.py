"""Make `tests/unit/score/data/longbench_scores.jsonl.gz`: what LongBench's own code gives.

    python tests/benchmarks/longbench_scores.py LONGBENCH/metrics.py OUT.jsonl.gz [SEED]

Runs the authors' `metrics.py` (with rouge 1.0.1, jieba 0.42.1 and fuzzywuzzy 0.18.0, without
python-Levenshtein), which is not part of this project. With another seed the cases are fresh ones.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CASES = 520
ENGLISH = (  # noqa: SIM905  # reads better as text
    "the a an of river bank 1984 U.S. state-of-the-art lake, Lake boat; sails (not) sail over Über "
    "it's quiet again. yes no unanswerable Mr. Smith's 3.14 the. A. e.g. naïve -- ... % x_y"
).split()
CHINESE = (  # noqa: SIM905  # reads better as text
    "北京大学 是 中国 著名的 高等学府 ， 成立于1898年 。 研究人员 提出 了 新的 压缩 方法 ！ "
    "《红楼梦》 的 作者 “曹雪芹” 、 ABC 模型 3.5 亿 会议 总结 预算 讨论 上海 经济 发展 "
    "—— 问题 ： 不知道 ？ 段落 湖水 平静"
).split()
CODE = (  # noqa: SIM905  # reads better as text
    "return self.value + 1|for i in range(n):|    x = foo(bar)|// comment|# note|```python|```|"
    "public static void main(String[] args) {|if (a == b) return;|int x = 0;  // zero||}"
).split("|")
CLASSES = [
    "Other location", "location", "City", "Country", "State", "Mountain", "Other", "Other number",
    "number", "Number of something", "Date", "Individual", "Group or organization of person",
    "person", "Title of a person", "Description of a person", "体育", "体育新闻", "新闻",
]  # fmt: skip
Case = tuple[str, list[str], list[str] | None]


def english(rng: random.Random, longest: int = 25) -> str:
    words = rng.choices(ENGLISH, k=rng.randrange(longest))
    return "".join(word + rng.choice([" ", " ", " ", "\n", ". "]) for word in words)


def chinese(rng: random.Random, longest: int = 25) -> str:
    return "".join(rng.choices([*CHINESE, " "], k=rng.randrange(longest)))


def code(rng: random.Random) -> str:
    return "\n".join(rng.choices(CODE, k=rng.randrange(5)))


def many(rng: random.Random, make: Callable[..., str]) -> list[str]:
    return [make(rng) for _ in range(rng.choice([1, 1, 2, 4]))]


def near(rng: random.Random, text: str) -> str:
    """`text` with some characters lost: near misses are where metrics differ."""
    return "".join(c for c in text if rng.random() > 0.1)


def numbers(rng: random.Random, word: str) -> Case:
    pool = [str(rng.randrange(30)) for _ in range(4)]
    said = rng.choices([*pool, "of", f"{word}{pool[0]}", "-", "十"], k=rng.randrange(9))
    return (
        rng.choice([" ", "", ", "]).join(said),
        [word + pool[0], word + pool[1]][: rng.randint(1, 2)],
        None,
    )


def classified(rng: random.Random) -> Case:
    classes = rng.sample(CLASSES, rng.randrange(3, len(CLASSES)))
    said = rng.choice([" ", ", ", ""]).join(rng.choices(CLASSES, k=rng.randrange(6)))
    return said, [rng.choice(CLASSES) for _ in range(rng.randint(1, 2))], classes


def texts(rng: random.Random, make: Callable[..., str]) -> Case:
    answers = many(rng, make)
    said = make(rng) if rng.random() < 0.6 else near(rng, rng.choice(answers)) + make(rng)
    return said, answers, None


def codes(rng: random.Random) -> Case:
    line = rng.choice(CODE)
    return (
        rng.choice([code(rng), near(rng, line) + "\n" + code(rng), "x" * 250 + line]),
        [line],
        None,
    )


KINDS: dict[str, tuple[str, Callable[[random.Random], Case]]] = {
    "f1": ("qa_f1_score", lambda rng: texts(rng, english)),
    "f1_zh": ("qa_f1_zh_score", lambda rng: texts(rng, rng.choice([chinese, chinese, english]))),
    "rouge_l": ("rouge_score", lambda rng: texts(rng, english)),
    "rouge_l_zh": (
        "rouge_zh_score",
        lambda rng: texts(rng, rng.choice([chinese, chinese, english])),
    ),
    "classification": ("classification_score", classified),
    "count": ("count_score", lambda rng: numbers(rng, "")),
    "retrieval": ("retrieval_score", lambda rng: numbers(rng, "Paragraph ")),
    "retrieval_zh": ("retrieval_zh_score", lambda rng: numbers(rng, "段落")),
    "code_similarity": ("code_sim_score", codes),
}


def cases(upstream: Any, seed: int) -> Iterator[dict[str, Any]]:
    for metric, (function, make) in KINDS.items():
        rng = random.Random(f"{seed} {metric}")
        for i in range(CASES):
            said, answers, classes = make(rng)
            said = "" if i % 50 == 0 else said
            measure = getattr(upstream, function)
            score = max(0.0, *(measure(said, answer, all_classes=classes) for answer in answers))
            yield {"metric": metric, "prediction": said, "answers": answers,
                   "all_classes": classes, "score": score}  # fmt: skip


def main() -> None:
    source, out, *seed = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("upstream", source)
    assert spec is not None
    assert spec.loader is not None
    upstream = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(upstream)
    rows = [json.dumps(case, ensure_ascii=False) for case in cases(upstream, int(*seed or [0]))]
    Path(out).write_bytes(gzip.compress("\n".join(rows).encode(), mtime=0))
    print(f"{len(rows)} cases in {out}")


if __name__ == "__main__":
    main()
