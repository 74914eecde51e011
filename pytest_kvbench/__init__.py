"""pytest-kvbench: what a smaller KV cache costs in answer quality, as pytest items.

    declare -> plan -> ask -> store -> observe -> judge -> conclude -> report
    experiment (tasks) (engines)       (score)   (analyse)            -> verdicts gate pytest

An eval author writes a YAML file and

    @pytest.mark.kvbench("submission.yaml")
    def test_quality(cell, control):
        cell.compare(control).check()

and imports from here only what annotations need. A notebook reads what a run left:

    from pytest_kvbench import load_group
    load_group("reports/my_group").cells        # pandas frames: answers, cells, transitions

Imports run one way: plugin, cli -> ops (across groups), batch (providers' batches) -> pipeline (the
stages, each a module) -> the rooms of the flow -> records, wire, files, errors. The embedded server
is a program of its own, in `server`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_kvbench.ops.frames import load_group
    from pytest_kvbench.plugin.verdict import Comparison, Controls, MeasuredCell

__all__ = ["Comparison", "Controls", "MeasuredCell", "load_group"]


def __getattr__(name: str) -> Any:
    # Late, so that importing the package for its plugin or its records loads nothing else.
    if name == "load_group":
        from pytest_kvbench.ops import frames

        return frames.load_group
    if name in __all__:
        from pytest_kvbench.plugin import verdict

        return getattr(verdict, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
