"""What the server settles before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.server import __main__ as program
from pytest_kvbench.server import weights

LOADED = """
import os, sys
from pytest_kvbench.server import __main__ as program, weights
class Loads:
    def find_spec(self, name, *_):
        if name == "torch":
            print("spins:", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
            raise SystemExit
sys.meta_path.insert(0, Loads())
weights.resolve = weights.materialise = lambda *_: None
program.main(["--device", "cpu", *sys.argv[1:]])
"""


def started(*options: str, **environment: str) -> str:
    """What a server that is being started prints, up to where it loads torch."""
    unset = {name: of for name, of in os.environ.items() if name not in program._WAITING}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *options],
        capture_output=True, text=True, timeout=120, env={**unset, **environment},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_its_threads_soon_sleep_while_they_wait() -> None:
    assert f"spins: {program._SPINS} None" in started()
    assert int(program._SPINS) < 300_000  # the default where there are no more threads than cores


@pytest.mark.parametrize(
    ("setting", "seen"),
    [({"GOMP_SPINCOUNT": "500"}, "500 None"), ({"OMP_WAIT_POLICY": "active"}, "None active")],
)
def test_what_the_user_has_set_stays(setting: dict[str, str], seen: str) -> None:
    assert f"spins: {seen}" in started(**setting)


def test_float16_on_a_cpu_is_warned_of() -> None:
    assert "float16 takes three times as long" in started("--dtype", "float16")
    assert "times as long" not in started("--dtype", "bfloat16")


def test_medium_precision_is_named_by_the_dtype() -> None:
    """It is in the fingerprint, so that answers are never taken for those of full precision."""
    assert "float32-medium" in weights.DTYPES
    assert "float32-medium" in kind_of(EngineSettings(name="local")).dtypes
    assert "float32-medium" not in kind_of(EngineSettings(name="vllm")).dtypes
