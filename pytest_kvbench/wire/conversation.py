"""A logged chat, as OpenAI's API has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

Message = Mapping[str, object]
"""One message as the API has it: `role`, `content`, and whatever else it was sent with."""


@dataclass(frozen=True)
class Conversation:
    """What a chat has beside the text of its last message.

    `turns` are the messages before the last one, `last` is what that one has beside its text.
    """

    turns: tuple[Message, ...] = ()
    last: Message = field(default_factory=lambda: {"role": "user"})
    tools: tuple[object, ...] = ()

    @property
    def identity(self) -> dict[str, object]:
        """Its part of a prompt's identity: none of a prompt that has nothing of it."""
        return {} if self == NO_TURNS else {"conversation": [self.turns, self.last, self.tools]}

    @property
    def transcript(self) -> str:
        """The tools and the turns as text: what tokens are counted of."""
        parts = [*map(_json, self.tools), *map(_said, self.turns)]
        return "".join(f"{part}\n\n" for part in parts)


NO_TURNS = Conversation()


def _said(turn: Message) -> str:
    rest = {name: value for name, value in turn.items() if name != "role"}
    content = turn.get("content")
    text = content if isinstance(content, str) and len(rest) == 1 else _json(rest)
    return f"{turn['role']}: {text}"


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
