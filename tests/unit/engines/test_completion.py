"""The reader of completions: any JSON is a sound answer or one refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.batch import lines
from pytest_kvbench.engines import completion
from pytest_kvbench.engines.completion import NotACompletionError
from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.engines.sse import Assembly, BrokenStreamError
from pytest_kvbench.records import (
    Answer,
    Arm,
    Example,
    Failure,
    Prompt,
    Request,
    Sampling,
)
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest
from pytest_kvbench.store.control_file import line_of
from pytest_kvbench.store.store import Store

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)  # surrogates too
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from([10**39, -(10**39), 2**63, 1e300, 12.0, "\ud83d", "stop", {}, []])
)
NAMES = st.sampled_from(
    [
        *("choices", "usage", "timings", "message", "text", "delta", "content", "refusal", "type"),
        *("thinking", "finish_reason", "index", "kv", "prompt_tokens", "completion_tokens", "note"),
        *("prompt_tokens_details", "cached_tokens", "achieved", "kept_bytes", "full_bytes"),
        *("kept_tokens", "queue_s", "error", "code"),
    ]
)
JSON = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXTS, inner, max_size=4),
    max_leaves=12,
)


def kv(**odd: Any) -> dict[str, Any]:
    return {"achieved": 0.5, "kept_bytes": 5, "full_bytes": 10, "kept_tokens": 3.0, **odd}


def whole() -> dict[str, Any]:
    """A reply with every field that is read."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "word"}, "kv": kv()}
    details = {"cached_tokens": 1}
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": details}
    return {"choices": [choice], "usage": usage, "timings": {"queue_s": 0.1}}


def paths(data: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    inner = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data if isinstance(data, list) else ())
    )
    for name, value in inner:
        yield from paths(value, (*here, name))


def with_odd(data: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copy = data.copy()
    copy[path[0]] = with_odd(data[path[0]], path[1:], odd)
    return copy


ODD_REPLIES = st.builds(with_odd, st.just(whole()), st.sampled_from(list(paths(whole()))), JSON)

REQUEST = Request(
    Arm("e", "m", "f", "none", 1.0, Sampling(), "t"), "t", 0, "e", 0, Prompt("head", "tail", 8)
)


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Answer | Failure], None]]:
    """Stores what a request came to, in a real store and as a shared control."""
    with Store(tmp_path_factory.mktemp("db") / "kvbench.sqlite") as store:
        example = Example("e", "q", "c", ("a",))
        store.save_manifest(
            TaskManifest(
                "t", "m", "v", "k", (Bin(0, 0, 9),), (ManifestEntry(example, 0, 1, "sha", 8),)
            ),
            {},
        )
        count = 0

        def one(found: Answer | Failure) -> None:
            nonlocal count
            count += 1
            asked = replace(REQUEST, replicate=count)
            store.save_requests([asked])
            if isinstance(found, Failure):
                store.save_failures([replace(found, key=asked.key)])
                return
            answer = replace(found, key=asked.key)
            store.save_answers([answer])
            assert store.answers([asked.key]) == {asked.key: answer}
            line_of(answer).decode()

        yield one


def read(data: object) -> Answer | Failure:
    try:
        return completion.read_one(["k"], data, 1.0)[0]
    except NotACompletionError as refused:
        return Failure("k", "ENGINE_ERROR", str(refused))


@given(data=JSON | ODD_REPLIES)
def test_any_json_is_an_answer_that_can_be_stored_or_a_failure(
    keep: Callable[[Answer | Failure], None], data: Any
) -> None:
    keep(read(json.loads(json.dumps(data))))


@given(data=JSON | ODD_REPLIES)
def test_any_json_is_an_outcome_of_each_arm(
    keep: Callable[[Answer | Failure], None], data: Any
) -> None:
    try:
        found = completion.read_arms(["k"], data, 1.0)
    except NotACompletionError:
        return
    (outcome,) = found
    keep(outcome)


@given(response=JSON, body=JSON | ODD_REPLIES, error=JSON, key=TEXTS)
def test_any_line_of_a_batch_is_an_outcome_or_no_line(
    keep: Callable[[Answer | Failure], None], response: Any, body: Any, error: Any, key: str
) -> None:
    status = {"status_code": 200, "body": body}
    for said in (response, status, {**status, "status_code": response}):
        line = {"custom_id": key, "response": said, "error": error}
        for sent in (line, {**line, "error": None}):
            try:
                found = lines.read(json.dumps(sent).encode(), KINDS["openai"])
            except ValueError:
                continue
            found.key.encode()
            keep(found.outcome)


@given(
    st.lists(JSON | ODD_REPLIES, max_size=4),
    st.integers(1, 9),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_events_are_a_reply_or_a_broken_stream(
    keep: Callable[[Answer | Failure], None], events: list[Any], size: int, end: str
) -> None:
    sent = "".join(f"data:{json.dumps(event)}{end}{end}" for event in events).encode()
    assembly = Assembly()
    try:
        for start in range(0, len(sent), size):
            assembly.feed(sent[start : start + size])
        keep(read(assembly.reply()))
    except BrokenStreamError as broken:
        keep(Failure("k", "ENGINE_ERROR", str(broken)))


# -- single oddities -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "caf\u00e9"}, "caf\u00e9"),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": "half \ud83d"}, "half \ufffd"),
        ({"content": "\ud83d\ude00"}, "\N{GRINNING FACE}"),
        ({"content": ["a", {"type": "text", "text": "b"}, {"text": "c"}]}, "abc"),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "so"},
                ]
            },
            "so",
        ),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, "no"),
        ({"content": None, "refusal": "I cannot help with that."}, "I cannot help with that."),
        ({"content": "said", "refusal": None}, "said"),
    ],
)
def test_what_a_message_says(message: dict[str, Any], text: str) -> None:
    found = read({"choices": [{"message": message}]})
    assert isinstance(found, Answer)
    assert found.text == text


@pytest.mark.parametrize("content", [3, True, {"text": "a"}, [3], [{"type": "text", "text": 3}]])
def test_what_says_nothing_readable_is_a_failure(content: Any) -> None:
    found = read({"choices": [{"message": {"content": content}}]})
    assert isinstance(found, Failure)
    assert "not a completion" in found.message


@pytest.mark.parametrize("odd", [10**39, 3.5, "seven", {}, [], float("inf"), -1, None, True])
def test_odd_numbers_are_missing_and_the_rest_is_kept(odd: Any) -> None:
    numbers = ("prompt_tokens", "completion_tokens", "cached_tokens", "kept_bytes", "full_bytes")
    data = whole()
    data["usage"] = {"prompt_tokens": odd, "completion_tokens": odd, "prompt_tokens_details": odd}
    data["choices"][0]["kv"] = kv(kept_bytes=odd, full_bytes=odd)
    data["timings"] = {"queue_s": odd} if odd not in (10**39, 3.5, True) else odd
    found = read(data)
    assert isinstance(found, Answer)
    seen = found.telemetry
    assert [getattr(seen, name) for name in numbers] == [None] * 5
    assert (found.text, seen.achieved, seen.latency_s) == ("word", 0.5, 1.0)


@pytest.mark.parametrize(("queued_s", "left_s"), [(0.25, 0.75), (1.0, 0.0), (3, 1.0), (1e308, 1.0)])
def test_a_queue_longer_than_the_reply_took_is_none(queued_s: float, left_s: float) -> None:
    found = read({**whole(), "timings": {"queue_s": queued_s}})
    assert isinstance(found, Answer)
    assert found.telemetry.latency_s == left_s


def test_a_float_that_is_whole_is_a_count() -> None:
    found = read({**whole(), "usage": {"prompt_tokens": 12.0}})
    assert isinstance(found, Answer)
    assert found.telemetry.prompt_tokens == 12


def test_a_prompt_of_no_tokens_was_not_counted() -> None:
    found = read({**whole(), "usage": {"prompt_tokens": 0, "completion_tokens": 0}})
    assert isinstance(found, Answer)
    assert (found.telemetry.prompt_tokens, found.telemetry.completion_tokens) == (None, 0)


def test_one_odd_choice_of_a_sweep_is_one_failure() -> None:
    good = {"finish_reason": "stop", "completion_tokens": 2, "kv": kv()}
    choices = [
        {**good, "index": 1, "message": {"content": "b"}},
        {**good, "index": 0, "message": {"content": 3}},
    ]
    first, second = completion.read_arms(["k0", "k1"], {"choices": choices}, 1.0)
    assert (type(first), first.key, type(second), second.key) == (Failure, "k0", Answer, "k1")


def ended(reason: object) -> Answer | Failure:
    return read({**whole(), "choices": [{**whole()["choices"][0], "finish_reason": reason}]})


@pytest.mark.parametrize(
    ("reason", "meant"),
    [
        *((word, "stop") for word in ("stop", "eos_token", "end_turn", "STOP", "stop_sequence")),
        *(
            (word, "length")
            for word in ("max_tokens", "MAX_TOKENS", {"type": "length"}, "maxTokens")
        ),
        *((word, "content_filter") for word in ("SAFETY", "RECITATION", "refusal", "sensitive")),
        *((word, "content_filter") for word in ("FINISH_REASON_SAFETY", "ERROR_TOXIC")),
        *(
            (word, "tool_calls")
            for word in ("tool_use", "function_call", "MALFORMED_FUNCTION_CALL")
        ),
    ],
)
def test_the_words_of_many_servers_for_an_end_are_those_of_one(reason: object, meant: str) -> None:
    found = ended(reason)
    assert isinstance(found, Answer)
    assert found.finish_reason == meant


@pytest.mark.parametrize("broken_off", ["internal_server_error", {"type": "abort"}, None])
def test_a_reply_that_was_broken_off_is_no_answer(broken_off: object) -> None:
    assert isinstance(ended(broken_off), Failure)


def test_a_word_that_nobody_knows_is_kept_as_it_is() -> None:
    found = ended("Whimsy")
    assert isinstance(found, Answer)
    assert found.finish_reason == "Whimsy"


@pytest.mark.parametrize("indexes", [[0], [0, 0], [0, 2], [0, None], [0, 1, 2]])
def test_choices_that_are_not_the_arms_are_refused(indexes: list[Any]) -> None:
    choices = [{"index": index, "message": {"content": "a"}} for index in indexes]
    with pytest.raises(NotACompletionError, match="2 arms"):
        completion.read_arms(["k0", "k1"], {"choices": choices}, 1.0)


# -- streams -------------------------------------------------------------------------------------


def delta(content: Any, **more: Any) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": content}, **more}]})


END = delta("", finish_reason="stop")


def streamed(
    *events: str, end: str = "\n\n", size: int = 1000, start: str = ""
) -> Answer | Failure:
    sent = (start + "".join(event + end for event in events)).encode()
    assembly = Assembly()
    for at in range(0, len(sent), size):
        assembly.feed(sent[at : at + size])
    return read(assembly.reply())


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n"])
def test_a_stream_survives_how_it_is_cut_and_ended(size: int, end: str) -> None:
    events = (
        delta("\ud83d"),
        delta("\ude00 "),
        'data:{"choices": [{"delta": {"content": "naïve 湖"}}], "error": null}',
        'data: {"choices": [{"delta": null, "finish_reason": null}]}',
        delta([{"type": "thinking", "thinking": []}, {"type": "text", "text": "."}]),
        ": a comment",
        END,
        'data: {"choices": null, "usage": {"prompt_tokens": 12.0, "completion_tokens": -3}}',
        "data: [DONE]",
    )
    found = streamed(*events, size=size, end=end, start="\ufeff")
    assert isinstance(found, Answer)
    assert found.text == "\N{GRINNING FACE} naïve 湖."
    assert (found.telemetry.prompt_tokens, found.telemetry.completion_tokens) == (12, None)


@pytest.mark.parametrize("reason", ["cancelled", {"type": "abort", "message": "oom"}])
def test_a_stream_that_was_broken_off_is_no_answer(reason: object) -> None:
    with pytest.raises(BrokenStreamError, match=r"oom|cancelled"):
        streamed(delta("half"), delta("", finish_reason=reason))


def test_an_event_of_three_megabytes_is_an_event() -> None:
    long = "x" * 3_000_000
    found = streamed(delta(long), END, size=65536)
    assert isinstance(found, Answer)
    assert found.text == long


def test_a_streamed_refusal_is_what_was_said() -> None:
    refusing = 'data: {"choices": [{"delta": {"refusal": "I can"}}]}'
    found = streamed(refusing, refusing.replace("can", "not"), END)
    assert isinstance(found, Answer)
    assert found.text == "I canI not"


def test_a_last_line_without_an_end_counts() -> None:
    found = streamed(delta("a") + "\n", END, end="")
    assert isinstance(found, Answer)
    assert found.text == "a"


def test_of_several_choices_in_a_stream_the_first_is_the_answer() -> None:
    """Two that came in turns were one text of both."""
    first, second = ({"index": index, "finish_reason": None} for index in (0, 1))
    both = {
        "choices": [{**first, "delta": {"content": "a"}}, {**second, "delta": {"content": "B"}}]
    }
    ended = delta("", index=1, finish_reason="length")
    found = streamed(f"data: {json.dumps(both)}", delta("b", index=0), ended, END)
    assert isinstance(found, Answer)
    assert (found.text, found.finish_reason) == ("ab", "stop")


def test_what_comes_after_the_end_of_a_stream_is_no_part_of_it() -> None:
    found = streamed(delta("a"), END, "data: [DONE]", delta("b"), "data: {")
    assert isinstance(found, Answer)
    assert found.text == "a"


def test_a_whole_message_in_a_stream_is_what_was_said() -> None:
    """It was an empty answer."""
    whole = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
    found = streamed(f"data: {json.dumps(whole)}", "data: [DONE]")
    assert isinstance(found, Answer)
    assert found.text == "a"


@pytest.mark.parametrize("place", ["reply", "choice"])
def test_a_reply_that_reports_an_error_is_no_answer(place: str) -> None:
    """The text beside it is what was said until then."""
    error = {"error": {"message": "out of memory"}}
    choice = {"delta": {"content": "hal"}, "message": {"content": "hal"}, "finish_reason": "stop"}
    reply = {"choices": [{**choice, **(error if place == "choice" else {})}]}
    body = {**reply, **(error if place == "reply" else {})}
    line = {"custom_id": "k", "response": {"status_code": 200, "body": body}}
    (outcome,) = [lines.read(json.dumps(line).encode(), KINDS["openai"]).outcome]
    assert isinstance(outcome, Failure)
    assert outcome.message == "out of memory"
    with pytest.raises(BrokenStreamError, match="out of memory"):
        streamed(f"data: {json.dumps(body)}")


@pytest.mark.parametrize(
    "event",
    [
        "data: " + "[" * 200_000,
        'data: {"choices": [3]}',
        'data: {"choices": 3}',
        'data: {"choices": [{"delta": "a"}]}',
        delta(3),
        "data: 3",
    ],
)
def test_what_is_no_event_breaks_the_stream(event: str) -> None:
    with pytest.raises(BrokenStreamError, match="not an event"):
        streamed(event, END)
