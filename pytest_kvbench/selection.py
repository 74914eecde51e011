"""The pinned selection of examples: which were chosen, in which bins, and what is sent for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from pytest_kvbench.records import Example, Meta


class ApartExample(Example):
    """An example whose context lies elsewhere, and is read whenever it is asked for."""

    _read: Callable[[], str]

    @classmethod
    def of(cls, example: Example, read: Callable[[], str]) -> ApartExample:
        """`example`, its context in the keeping of `read`; its cluster is known."""
        apart = object.__new__(cls)
        known = {name: of for name, of in vars(example).items() if name != "context"}
        vars(apart).update(known, cluster=example.cluster, _read=read)
        return apart

    @classmethod
    def made(cls, read: Callable[[], str], cluster: str, **others: Any) -> ApartExample:
        """An example of which all but the context is here."""
        apart = object.__new__(cls)
        vars(apart).update(others, cluster=cluster, _read=read)
        return apart

    def __getattr__(self, name: str) -> Any:
        if name == "context":
            return self._read()
        raise AttributeError(name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Example):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(Example))

    __hash__ = None  # type: ignore[assignment]  # as of an example, whose `meta` has none

    def noting(self, meta: Meta) -> Example:
        """See `Example.noting`."""
        others = {"example_id": self.example_id, "question": self.question, "answers": self.answers}
        return ApartExample.made(self._read, self.cluster, **others, meta=meta)


class Selection(TypedDict):
    """What decides which examples of a task are chosen; `data` is the digest of its data."""

    bins: Mapping[str, object]
    seed: int
    options: Mapping[str, object]
    data: str


@dataclass(frozen=True)
class Bin:
    """A length class of prompts: `low <= tokens < high` (None: open)."""

    index: int
    low: int | None
    high: int | None

    @property
    def label(self) -> str:
        """The edges for people: `512-1,024 tokens`."""
        low = "0" if self.low is None else f"{self.low:,}"
        return f"{low}+ tokens" if self.high is None else f"{low}-{self.high:,} tokens"


@dataclass(frozen=True)
class ManifestEntry:
    """One selected example, its bin and its prompt: tokens, content and new tokens at most.

    `prompt` is the `content_id` of what the task alone would send, `max_tokens` the task's own.
    """

    example: Example
    bin: int
    tokens: int
    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class TaskManifest:
    """The pinned selection of one task's examples, ordered by bin, then selection order."""

    task: str
    metric: str
    template_version: str
    tokenizer: str
    bins: tuple[Bin, ...]
    entries: tuple[ManifestEntry, ...]

    def of_bin(self, index: int) -> tuple[ManifestEntry, ...]:
        """The entries of one bin, in selection order."""
        return tuple(entry for entry in self.entries if entry.bin == index)

    def largest_context(self, index: int) -> int:
        """The number of examples of a bin's largest context; 0 where the bin is empty."""
        sizes = Counter(entry.example.cluster for entry in self.of_bin(index))
        return max(sizes.values(), default=0)

    def lengths(self, declared: int | None) -> list[int]:
        """The new tokens that prompts may have at most: as declared, or the task's own."""
        return [declared] if declared else sorted({entry.max_tokens for entry in self.entries})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskManifest:
        """Read back what `to_json` wrote."""
        return cls(
            **{
                **data,
                "bins": tuple(Bin(**b) for b in data["bins"]),
                "entries": tuple(
                    ManifestEntry(**{**e, "example": Example.from_json(e["example"])})
                    for e in data["entries"]
                ),
            }
        )
