"""What is stored of what is asked and answered."""

from __future__ import annotations

from typing import Literal

from pytest_kvbench.experiment.section import Section, about


class Kept(Section):
    """Which texts of a group are stored."""

    texts: Literal["keep", "hash"] = about(
        "keep, or hash: prompts, references and replies are stored nowhere, only their hashes",
        default="keep",
    )
