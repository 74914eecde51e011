"""Why the hub gave nothing, and what to do about it: one place for models, tokenizers and data."""

from __future__ import annotations

from collections.abc import Iterator

_TOKEN = "set HF_TOKEN to a token of yours"  # noqa: S105  # tells of one, is none

_KNOWN: dict[str, tuple[str, str]] = {
    "GatedRepoError": (
        "it is gated, and this account has no access",
        f"accept its terms on its page of the hub, then {_TOKEN}",
    ),
    "DisabledRepoError": ("the hub has disabled it", "take it from elsewhere"),
    "RevisionNotFoundError": ("the hub has it, but not this revision", "check the revision"),
    "EntryNotFoundError": ("the hub has it, but not this file", "check its name and revision"),
    "RepositoryNotFoundError": (
        "the hub has none of that name, or it is private",
        f"check the name; where it is private, {_TOKEN}",
    ),
    "DatasetNotFoundError": (  # of `datasets`, which does not say which
        "the hub has none of that name, or it is private or gated",
        f"check the name; where it is gated, accept its terms on its page of the hub; {_TOKEN}",
    ),
    "LocalEntryNotFoundError": (
        "the hub cannot be reached, and it is not cached",
        "check the network and HF_HUB_OFFLINE",
    ),
    "OfflineModeIsEnabled": ("HF_HUB_OFFLINE is set, and it is not cached", "unset HF_HUB_OFFLINE"),
}
"""Name of an error of the hub's client -> what it means, and what to do."""


def reason(error: BaseException) -> tuple[str, str]:
    """What an error of the hub's client, or of a library over it, means, and what to do.

    `datasets` and `tokenizers` wrap the client's errors: the first known one of the chain counts.
    """
    for cause in _chain(error):
        for kind in type(cause).__mro__:
            if kind.__name__ in _KNOWN:
                return _KNOWN[kind.__name__]
    first = next(iter(str(error).splitlines()), "")
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return said, "check the name and the network"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
