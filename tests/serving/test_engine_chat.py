"""Conversations of English turns and foreign texts, and answers in pieces."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from variants import GREETING

from llink import Engine, Foreign, LlinkError
from llink.adapter.prompt import TASKS
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]
SHORT = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path]) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    for code, folder in tiny_adapters.items():
        engine.add(code, folder)
    return engine


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def test_one_turn_is_what_generate_answers(engine: Engine) -> None:
    for text in KHMER[:4]:
        assert engine.chat([user(TASKS["title"], text)], **SHORT) == engine.generate(text, "km", task="title", **SHORT)
    assert engine.chat([user("What is rice?")], **SHORT) == engine.generate("What is rice?", None, **SHORT)
    system = {"role": "system", "content": "Answer in English."}
    assert engine.chat([system, user("What is rice?")], **SHORT) == engine.chat([user("What is rice?")], **SHORT)


def test_every_turn_counts(engine: Engine) -> None:
    longer = {"max_new_tokens": 32}  # the tiny decoder says the same of many things at first
    said = [user(KHMER[0]), {"role": "assistant", "content": "Hello."}, user("And this?", KHMER[1])]
    answers = {
        engine.chat(said, **longer),
        engine.chat([user(KHMER[2]), *said[1:]], **longer),
        engine.chat([said[0], {"role": "assistant", "content": "The market is open."}, said[2]], **longer),
        engine.chat([*said[:2], user("And this?", KHMER[3])], **longer),
        engine.chat([*said[:2], user(KHMER[1], "And this?")], **longer),
        engine.chat([said[2]], **longer),
    }
    assert len(answers) >= 5
    assert engine.chat(said, **longer) == engine.chat(said, **longer)


def test_foreign_says_the_language(engine: Engine) -> None:
    text = GREETING["my"] + KHMER[0]
    asked = [engine.chat([user("What is it?", Foreign(text, code))], **SHORT) for code in ("km", "Burmese")]
    assert asked == [engine.generate(text, code, instruction="What is it?", **SHORT) for code in ("km", "my")]
    assert asked[0] != asked[1]
    with engine.using("my"):
        assert engine.chat([user("What is it?", Foreign(text))], **SHORT) == asked[1]
        assert engine.chat([user("What is it?", Foreign(text, "km"))], **SHORT) == asked[0]
    # A text with some foreign words in it is English.
    mixed = "What does the word ខ្មែរ mean in English?"
    assert engine.chat([user(mixed)], **SHORT) == engine.generate(mixed, None, **SHORT)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "no message"),
        (["Hello"], "role"),
        ([{"role": "robot", "content": "Hello"}], "system, user, assistant"),
        ([{"role": "user"}], "neither text nor a list"),
        ([user(7)], "neither text nor a list"),
        ([{"role": "user", "content": []}], "neither text nor a list"),
        ([{"role": "assistant", "content": "Hello"}], "ends with a turn of the user"),
        ([user("Hello"), {"role": "system", "content": "Hi"}, user("Hello")], "can only be its first"),
        ([user(KHMER[0]), user("ሰላም ነው")], "several languages (Amharic, Khmer)"),
    ],
)
def test_what_is_no_conversation(engine: Engine, messages: list[Any], says: str) -> None:
    with pytest.raises(LlinkError, match=r"\[E517\]") as caught:
        engine.chat(messages, **SHORT)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([user("What?", Foreign("Hello", "km"))], "E504"),
        ([user("What?", Foreign(" ", "km"))], "E510"),
        ([user("What?", Foreign("Hello"))], "E503"),
        ([user("What?", Foreign(KHMER[0], "kmm"))], "E201"),
        ([user("Hello " * 3000)], "E511"),
        ([user(*[k + " " + k for k in KHMER * 5])], "E511"),  # more passages than there are slots
    ],
)
def test_what_cannot_be_read(engine: Engine, messages: list[Any], code: str) -> None:
    with pytest.raises(LlinkError, match=rf"\[{code}\]"):
        engine.chat(messages, **SHORT)
    assert all(adapter["users"] == 0 for adapter in engine.stats()["adapters"].values())


def test_stream_is_generate_in_pieces(engine: Engine) -> None:
    counts = []
    for text, code in ((KHMER[0], "km"), (GREETING["am"] + KHMER[1], "am"), ("What is rice?", None)):
        pieces = list(engine.stream(text, code, max_new_tokens=20))
        assert all(pieces)
        assert "".join(pieces) == engine.generate(text, code, max_new_tokens=20)
        counts.append(len(pieces))
    assert max(counts) > 5  # fewer where the tiny decoder stammers half characters
    assert "".join(engine.stream(KHMER[5], task="title", num_beams=2, **SHORT)) == engine.generate(
        KHMER[5], task="title", num_beams=2, **SHORT
    )


def test_stream_of_several_sentences(engine: Engine) -> None:
    text = "\n".join(KHMER[:20])
    assert "".join(engine.stream(text, "km", **SHORT)) == engine.generate(text, "km", **SHORT)


def test_a_stream_begins_before_the_answer_ends(engine: Engine) -> None:
    stream = engine.stream(KHMER[0], "km", max_new_tokens=500, min_new_tokens=500)
    assert next(stream)
    assert engine.stats()["adapters"]["km"]["users"] == 1
    stream.close()  # type: ignore[attr-defined]
    assert engine.stats()["adapters"]["km"]["users"] == 0
    began = time.monotonic()
    engine.generate("Hello", None, max_new_tokens=1)  # the decoder is free again
    assert time.monotonic() - began < 0.3


def test_stream_refuses_what_generate_refuses(engine: Engine) -> None:
    for text, options, code in (
        ("", {}, "E510"),
        ("Hello", {"language": "km"}, "E504"),
        (KHMER[0], {"top": 1}, "E518"),
    ):
        with pytest.raises(LlinkError, match=rf"\[{code}\]"):
            next(engine.stream(text, **options))
