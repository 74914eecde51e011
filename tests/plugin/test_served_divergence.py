"""Distributions of arms on servers of their own: asked about the full cache's reply, or free."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.conftest import Project
from tests.support.naming_server import NamingServer


@dataclass
class Named(NamingServer):
    """It has a list of models, too, as its kind's fingerprint is read from."""

    async def _serve(self, request: Request) -> Response:
        if request.url.path.endswith("/models"):
            return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model"}]})
        if request.method == "GET":
            is_known = request.url.path in ("/version", "/metrics")
            return JSONResponse({}, status_code=200 if is_known else 404)
        return await super()._serve(request)


@contextlib.contextmanager
def serving(
    project: Project, more: str = "", name: str = "openai", **noise: float
) -> Iterator[dict[str, Named]]:
    """An experiment of 24 requests, each arm on a server whose distributions its noise moves."""
    rows = [{"messages": [{"role": "user", "content": f"{'aa ' * n}tell"}]} for n in range(24)]
    (project.path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with contextlib.ExitStack() as up:
        servers = {arm: up.enter_context(Named(noise=of)) for arm, of in noise.items()}
        urls = {arm: server.base_url for arm, server in servers.items()}
        arms = [arm for arm in noise if arm != "none"]
        engine = {"name": name, "model": "m", "retries": 0, "endpoints": urls}
        experiment = {
            "group": "g",
            "tasks": ["chat:log.jsonl"],
            "bins": {"n": 1, "per_bin": 24},
            "kv": {"policies": arms, "budgets": [1.0]},
            "engine": engine,
            "measure": "divergence",
            "tokenizer": "approximate",
        }
        text = f"{json.dumps(experiment)[:-1]}, {more}}}" if more else json.dumps(experiment)
        (project.path / "exp.yaml").write_text(text)
        yield servers


def arms(project: Project) -> dict[str, tuple[float, float, str]]:
    """By policy: means of the control and of the arm, and the verdict; of the rows over bins."""
    rows = [c for c in project.summary()["cells"] if c["bin"] == "all"]
    found = {c["policy"]: (c["control_mean"], c["treated_mean"], c["verdict_holm"]) for c in rows}
    return {policy: row for policy, row in found.items() if policy != "none"}


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_free_replies_are_judged_by_where_they_part(project: Project, workers: str) -> None:
    with serving(project, none=0.0, q8_0=0.02, q4_0=1.5) as servers:
        result = project.run("-n", workers, "--kvbench-report")
        assert result.ret == 0, result.stdout.str()
        found = arms(project)
        assert found["q4_0"][0] == 1.0, "the full cache asked again says the same"
        assert found["q4_0"][1] < found["q8_0"][1]
        assert found["q4_0"][2] == "breaks"
        assert {c["measure"] for c in project.summary()["cells"]} == {"prefix"}
        asked = [sum(path.endswith("completions") for path in s.paths) for s in servers.values()]
        assert asked == [2 * 24, 24, 24]
        again = len(servers["q4_0"].paths)
        project.run("-n", workers)
        assert len(servers["q4_0"].paths) == again, "what is stored is not asked again"


def test_overlap_is_judged_by_the_reading_that_makes_it_hardest(project: Project) -> None:
    gate = '"gate": {"mode": "gate", "divergence": {"measure": "overlap", "margin": 0.33}}'
    few = '"sampling": {"max_tokens": 6}'
    with serving(project, f"{few}, {gate}", "vllm", none=0.0, fp8=0.02, fp8_e4m3=1.0, fp8_e5m2=4.0):
        result = project.run("-n", "0", "--kvbench-report", "--kvbench-save", "main")
        assert result.ret == 1, result.stdout.str()
        result.assert_outcomes(passed=3, failed=1, warnings=2)
        again = project.run("-n", "0", "--kvbench-compare", "main")
        again.stdout.fnmatch_lines(["*: no regression"])
    rows = {c["policy"]: c for c in project.summary()["cells"] if c["bin"] == 0}
    assert rows["none"]["control_mean"] == 1.0, "named alike to the last digit, it is itself"
    words = {policy: row["verdict_holm"] for policy, row in rows.items() if policy != "none"}
    assert words == {"fp8": "holds", "fp8_e4m3": "undetermined", "fp8_e5m2": "breaks"}
    for policy in words:
        low, high = rows[policy]["bounds"]
        assert rows[policy]["ci_low"] < low < high < rows[policy]["ci_high"]
        assert rows[policy]["delta"] == pytest.approx(low)
    low, high = rows["fp8_e4m3"]["bounds"]
    assert low < -0.33 < high, "the reading decides, so nothing is decided"
    (flag,) = rows["fp8_e4m3"]["flags"]
    assert flag.startswith(f"bounds: delta lies between {low:+.3f} and {high:+.3f}")
    assert rows["fp8_e4m3"]["needed"] is None
    report = (project.path / "reports" / "g" / "report.md").read_text(encoding="utf-8")
    assert f"| {low:+.2f} to {high:+.2f} [" in report
    assert "an arm breaks only if it does where all is shared" in report


def test_a_server_that_names_no_tokens_is_a_failure_with_its_reason(project: Project) -> None:
    with serving(project, none=0.0, q8_0=0.5) as servers:
        for server in servers.values():
            server._entry = lambda *_: None
            complete = server._complete

            def wordless(body: dict, complete=complete) -> dict:
                done = complete(body)
                done["choices"][0]["logprobs"] = None
                return done

            server._complete = wordless
        assert project.run("-n", "0").ret == 10
    assert "names no tokens" in str(project.summary()["integrity"])


def unnamed(body: dict, complete) -> dict:
    """A reply of which no position is named."""
    done = complete(body)
    done["choices"][0] |= {"logprobs": {"content": []}, "finish_reason": "length"}
    return done


@pytest.mark.parametrize(("name", "arm"), [("openai", "q8_0"), ("vllm", "fp8")])
@pytest.mark.parametrize("of", ["none", "all"])
def test_a_reply_of_which_nothing_is_named_is_not_like_another(
    project: Project, name: str, arm: str, of: str
) -> None:
    with serving(project, name=name, **{"none": 0.0, arm: 1.5}) as servers:
        for server in servers.values() if of == "all" else [servers["none"]]:
            server._complete = partial(unnamed, complete=server._complete)
        result = project.run("-n", "0")
        assert result.ret == 10, result.stdout.str()
    (row,) = [c for c in project.summary()["cells"] if c["policy"] == arm and c["bin"] == 0]
    assert row["verdict"] == "not-measured"
    assert "names no token of a reply" in str(project.summary()["integrity"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('"store": {"texts": "hash"}', "*store.texts: an arm on a server of its own*"),
        (
            '"gate": {"divergence": {"measure": "same_top"}}',
            "*gate.divergence.measure: engine.name: openai does not say same_top*",
        ),
    ],
)
def test_what_such_servers_cannot_be_asked_is_refused(
    project: Project, more: str, said: str
) -> None:
    with serving(project, more, none=0.0, q8_0=0.5) as servers:
        result = project.run("-n", "0")
        assert result.ret == 4
        result.stdout.fnmatch_lines([said])
        assert not servers["none"].bodies
