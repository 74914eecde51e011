"""A group opened by this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_kvbench.plugin.options import RUNTIME, Options

if TYPE_CHECKING:
    import pytest

    from pytest_kvbench.pipeline.group import Prepared


def opened(config: pytest.Config, group: str) -> Prepared:
    """The group as this process measured it, with its plan; else as its last run left it.

    Raises:
        MissingPrerequisiteError: nothing was prepared there.
    """
    from pytest_kvbench.pipeline.group import open_group

    runtime: Any = config.pluginmanager.get_plugin(RUNTIME)
    measured: Prepared | None = runtime.prepared(group) if runtime else None
    options = Options.of(config)
    return measured or open_group(options.reports / group, options.tasks)
