"""Classification by class names inside the reply (LongBench v1, metrics.py)."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import texts
from pytest_kvbench.records import Meta


def classification(prediction: str, answers: Sequence[str], meta: Meta) -> float:
    """One over the number of classes named, where the right one is among them.

    Args:
        prediction: the reply.
        answers: names of the right class; the best one counts.
        meta: `all_classes`, the names of all classes.

    Raises:
        UsageError: `all_classes` is missing.
    """
    found = named_classes(prediction, meta)
    return max((_one(found, answer) for answer in answers), default=0.0)


def named_classes(prediction: str, meta: Meta) -> list[str]:
    """The classes of `meta["all_classes"]` whose names are in the reply.

    Raises:
        UsageError: `all_classes` is missing.
    """
    return [name for name in classes_of(meta) if name in prediction]


def classes_of(meta: Meta) -> Sequence[str]:
    """The names of all classes.

    Raises:
        UsageError: `all_classes` is missing, or no list of texts.
    """
    classes = texts(meta.get("all_classes"))
    if not classes:
        raise UsageError(
            "metric classification needs all_classes, a list of texts",
            "give each row the names of its classes",
        )
    return classes


def _one(found: Sequence[str], answer: str) -> float:
    named = list(found)
    # Classes whose name is part of the right one's do not count against it. Upstream removes them
    # from the list while iterating over it, and so skips the name after each removed one.
    # Published scores have this in them: the index moves on whether or not a name was removed.
    position = 0
    while position < len(named):
        name = named[position]
        if name in answer and name != answer:
            named.remove(name)
        position += 1
    return 1.0 / len(named) if answer in named else 0.0
