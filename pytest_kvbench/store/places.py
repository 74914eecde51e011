"""Where groups are: the folders that hold a database."""

from __future__ import annotations

from pathlib import Path

from pytest_kvbench.store.store import DATABASE


def group_folders(reports: Path) -> list[Path]:
    """The folders of the groups in a reports folder, sorted by name."""
    return sorted(path.parent for path in reports.glob(f"*/{DATABASE}"))


def group_names(reports: Path) -> list[str]:
    """The groups in a reports folder, sorted."""
    return [folder.name for folder in group_folders(reports)]


def is_group(folder: Path) -> bool:
    """Whether a group has been prepared or run in a folder."""
    return (folder / DATABASE).is_file()
