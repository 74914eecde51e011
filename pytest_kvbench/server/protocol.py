"""What a request may look like, and what an error looks like: OpenAI's API plus `kv`.

Fields that would change an answer and are not served are refused unless they are neutral; other
unknown fields (metadata, user, ...) are ignored, as OpenAI's own servers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.server.bodies import ErrorBody

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "min_p": (None, 0),
    "top_k": (None, -1, 0),
    "repetition_penalty": (None, 1),
}
"""Fields of other servers, and the values at which they change nothing."""

MOST_STOPS, LONGEST_STOP = 64, 1024
"""OpenAI's own servers take 4."""
_LONGEST_MESSAGE, _MOST_FAULTS = 1000, 10_000


class ApiError(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        message = shortened(message)  # it may quote what was sent
        super().__init__(message)
        self.status = status
        self.body: ErrorBody = {
            "error": {
                "message": message,
                "type": "server_error" if status >= 500 else "invalid_request_error",
                "param": param and shortened(param),
                "code": code,
            }
        }


def shortened(text: str) -> str:
    """The text, cut where it is too long to be read."""
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " ..."


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class KvArm(_Strict):
    """One arm: a policy at a budget. `context_chars` is for `/v1/completions` only.

    `sources`: the digest that the asker has of each class of a user's in the policy.
    """

    model_config = ConfigDict(extra="forbid")

    policy: str = "none"
    budget: float = 1.0
    params: dict[str, object] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    question_aware: bool = True
    context_chars: int | None = Field(default=None, ge=1)


class Force(_Strict):
    """A reply, in tokens, that all arms are asked about; null: the first arm's own."""

    model_config = ConfigDict(extra="forbid")

    reference: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None


class StreamOptions(_Strict):
    """Whether a stream ends with the usage of tokens."""

    include_usage: bool = False


_Stop = Annotated[str, Field(max_length=LONGEST_STOP)]


class _Request(_Strict):
    model: str
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MOST_STOPS)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    kv: KvArm | Annotated[list[KvArm], Field(min_length=1, max_length=64)] = KvArm()
    force: Force | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unserved(cls, data: Any) -> Any:
        for name in NEUTRAL.keys() & (data if isinstance(data, dict) else {}):
            if data[name] not in NEUTRAL[name]:
                raise PydanticCustomError(
                    "unserved", "{field} is not supported; leave it out", {"field": name}
                )
        return data

    @model_validator(mode="after")
    def _forced_as_it_is_served(self) -> Self:
        for field, valid, fine in self._with_force() if self.force else ():
            if not fine:
                raise PydanticCustomError(
                    "unserved",
                    "{field}: with force it must be {valid}",
                    {"field": field, "valid": valid},
                )
        return self

    def _with_force(self) -> Iterator[tuple[str, str, bool]]:
        """Fields: what is valid of each where a reply is forced, and whether it is."""
        leads = isinstance(self.kv, list) and self.kv[0].policy == FULL_CACHE
        yield "kv", f"a list that begins with policy {FULL_CACHE}", leads
        yield "temperature", "0", self.temperature == 0
        yield "stream", "false", not self.stream
        yield "stop", "left out", not self.stops

    @property
    def arms(self) -> list[KvArm]:
        """The arms in order; one with the full cache where none is named."""
        return self.kv if isinstance(self.kv, list) else [self.kv]

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def token_limit(self) -> int | None:
        """The most new tokens asked for."""
        return self.max_tokens


class TextPart(_Strict):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A message; parts are joined without anything between them."""

    role: str
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The texts of all parts, joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    field: ClassVar[str] = "messages"

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def size(self) -> int:
        """Characters of all messages."""
        return sum(len(message.text) for message in self.messages)

    @property
    def token_limit(self) -> int | None:
        """The most new tokens asked for."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Request):
    """`POST /v1/completions`: a prompt as text or as token ids."""

    field: ClassVar[str] = "prompt"

    prompt: str | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

    @property
    def size(self) -> int:
        """Characters of the prompt, or its tokens."""
        return len(self.prompt)

    @property
    def token_limit(self) -> int | None:
        """The most new tokens asked for; OpenAI's default of 16."""
        return self.max_tokens or 16


class TokenizeRequest(_Strict):
    """`POST /tokenize`: plain text, a prompt as completions see it, or messages as chat does.

    `with_pieces`: each token of a plain text as its id and its piece of the text.
    """

    content: str | None = None
    with_pieces: bool = False
    prompt: str | None = None
    messages: list[Message] | None = None

    @property
    def text(self) -> str:
        """The plain text or the prompt."""
        return self.content or self.prompt or ""

    @model_validator(mode="after")
    def _exactly_one(self) -> TokenizeRequest:
        if sum(part is not None for part in (self.content, self.prompt, self.messages)) != 1:
            raise ValueError("give exactly one of content, prompt, messages")
        return self


Endpoint = Literal["/v1/chat/completions", "/v1/completions"]


class BatchRequest(_Strict):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None


class BatchLine(_Strict):
    """One line of a batch's file; what is in `body` is looked at when its turn comes."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[Any, Any]


_Model = TypeVar("_Model", bound=BaseModel)


def parse(kind: type[_Model], body: bytes) -> _Model:
    """The body as a request of that kind.

    Raises:
        ApiError: 400; the message names the field, the value's fault and what is valid.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise as_api_error(error) from error


def as_api_error(error: ValidationError) -> ApiError:
    """The 400 that names the field, the value's fault and what is valid."""
    if error.error_count() > _MOST_FAULTS:
        return ApiError(400, f"{error.error_count()} values are not valid.", code="invalid_value")
    # Unions report every branch; the deepest place is the branch that was meant.
    first = max(error.errors(), key=lambda entry: len(entry["loc"]))
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {first['msg']}", code="invalid_json")
    names = [str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    where = ".".join(name for name in names if name not in {"KvArm", "str", "int"})
    message = first["msg"].removeprefix("Value error, ")
    field = where or first.get("ctx", {}).get("field")
    return ApiError(
        400, f"{where}: {message}" if where else message, code="invalid_value", param=field
    )
