"""What every section of an experiment is: frozen, described in words, closed to unknown keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from pytest_kvbench.experiment.limits import MAX_LISTED, MAX_TOKENS
from pytest_kvbench.reading import refuse_yes

Fraction = Annotated[float, Field(gt=0, le=1)]


Count = Annotated[int, Field(ge=1, le=100_000)]


Listed = Field(min_length=1, max_length=MAX_LISTED)


Edge = Annotated[int, Field(ge=0, le=MAX_TOKENS)]


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, each there once; raises ValueError naming those that are not."""
    twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}")
    return values


def one_spelling(task: str) -> str:
    """A task's name as the task itself says it: `jsonl:./a.jsonl` is `jsonl:a.jsonl`."""
    prefix, colon, path = task.partition(":")
    return f"{prefix}:{Path(path).as_posix()}" if colon and path else task


TaskName = Annotated[str, AfterValidator(one_spelling)]


class Section(BaseModel):
    """A frozen part of an experiment that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_yes(value, cls.model_fields[str(info.field_name)].annotation)


def about(text: str, **rules: Any) -> Any:
    """A field whose description says in words what is valid; errors print it."""
    return Field(description=text, **rules)
