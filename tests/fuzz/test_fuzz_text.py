"""Any text of any Unicode at every door that a user's text goes through: an answer or a coded error, and never another."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd import at_the_door, cases, texts

from llink import Engine, Foreign, LlinkError, plugins
from llink.adapter.prompt import build, channel
from llink.adapter.shared import language_of
from llink.cli.lines import lines_of
from llink.cli.texts import as_line, as_row
from llink.data.encoding import decoded
from llink.interfaces import Decoder, Language
from llink.language.generic import generic_language
from llink.language.unicode import ascii_digits
from llink.language.unread import unread, with_marks
from llink.serving.answers import Answer, answer_all
from llink.serving.documents import parse
from llink.store.models import load_decoder

OWN = [plugins.language(code) for code in ("km", "my", "am", "mul")]
OTHERS = [generic_language(code) for code in ("ar", "fa", "hi", "ta", "th", "zh", "ko", "ru", "ti")]


@pytest.fixture(scope="module")
def decoder(decoder_folder: str) -> Decoder:
    return load_decoder(decoder_folder, dtype="float32")


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapter: Path) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapter)
    return engine


def control(decoder: Decoder) -> set[int]:
    """Tokens that are no text."""
    return set(decoder.tokenizer.all_special_ids)  # type: ignore[attr-defined]


def runs(text: str) -> set[str]:
    """Runs of digits."""
    return set("".join(c if c in "0123456789" else " " for c in text).split())


def check_language(language: Language, text: str) -> str:
    once = language.normalise(text)
    assert language.normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in once)
    parts = with_marks(language.sentences(once))
    assert "".join("".join(parts).split()) == "".join(once.split())
    values = language.verbatim(once)
    assert len(values) == len(set(values))
    assert runs(" ".join(values)) <= runs(language.ascii_digits(once))
    assert ascii_digits(ascii_digits(text)) == ascii_digits(text)
    likelihood = language.likelihood(text)
    assert likelihood is None or 0 <= likelihood <= 1
    language.sentences(text)
    return once


@cases(10_000)
@given(texts, st.one_of(st.sampled_from(OWN), st.sampled_from(OWN + OTHERS)), st.booleans())
def test_what_a_text_meets_before_a_model(decoder: Decoder, text: str, language: Language, shared: bool) -> None:
    """Detection, what is not read, spelling, sentences, values, tokens, a row of JSON."""
    at_the_door(language_of, text, shared)
    found = unread(text, OWN)
    assert found is None or len(found.output) == len(text)
    once = check_language(language, text)
    assert control(decoder).isdisjoint(decoder.tokenize(text))
    row = as_row(Answer(text, once, "km", "km", found and found.note), {"task": "translate"})
    assert row.count("\n") == row.count("\r") == 0
    assert json.loads(row.encode("utf-8", "backslashreplace"))["text"] == text
    assert not found or len(as_line(Answer(text, once)).splitlines()) <= 1


@cases(500)
@given(texts, st.text(max_size=12))
def test_prompts(decoder: Decoder, text: str, instruction: str) -> None:
    """What stands around a text and an instruction stays, whatever they are."""
    line = channel(decoder, [text, instruction], 24)
    around = [i for i in build(decoder, "a").ids if i in control(decoder)]
    for prompt in (build(decoder, instruction, text=text), build(decoder, text, slots=3, kept=[line])):
        assert [i for i in prompt.ids if i in control(decoder)] == around


@cases(600)
@given(
    st.lists(texts, min_size=1, max_size=10),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]),
)
def test_files_of_texts(tmp_path_factory: pytest.TempPathFactory, rows: list[str], encoding: str) -> None:
    """As many lines as there are, each as it was or an error of its own."""
    path = tmp_path_factory.getbasetemp() / "texts"
    content = "\n".join(rows)
    path.write_bytes(content.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace"))
    found = at_the_door(lambda: list(lines_of(None, path)))
    if isinstance(found, LlinkError):
        assert found.code in ("E505", "E508")
    elif encoding.startswith("utf-8"):
        expected = (
            content.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
        )
        assert len(found) == len(expected)
        for line, text in zip(found, expected, strict=True):
            assert line == text or (isinstance(line, LlinkError) and any("\ud800" <= c <= "\udfff" for c in text))
    at_the_door(lambda: list(lines_of(content, None)))


@cases(1_000)
@given(st.binary(max_size=60), st.sampled_from([None, "utf-7", "hex", "latin-1", "x\0", "undefined", "utf-16", "idna"]))
def test_bytes_of_any_kind(tmp_path_factory: pytest.TempPathFactory, data: bytes, declared: str | None) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(data)
    at_the_door(lambda: list(lines_of(None, path)))
    decoded(data, declared, "replace")


@cases(600)
@given(texts, st.sampled_from([".srt", ".html", ".md"]), st.data())
def test_documents(text: str, suffix: str, data: st.DataObject) -> None:
    start = data.draw(
        st.sampled_from(["", "1\n00:00:01,000 --> 00:00:02,000\n", "# ", "<p title='", "- a\n  - ", "| a |\n|---|\n| "])
    )
    found = at_the_door(parse, start + text, Path(f"page{suffix}"))
    if not isinstance(found, LlinkError):
        found.render([data.draw(texts) for _ in found.texts])
        found.render(found.texts)


@cases(100)
@given(st.lists(texts, min_size=1, max_size=6), st.sampled_from(["km", "auto", "km"]), st.booleans())
def test_answers(engine: Engine, rows: list[str], language: str, summarize: bool) -> None:
    """Through the tiny pair: as many answers as texts, each one of text, or what is wrong with that text."""

    def ask(codes: Sequence[str]) -> Engine:
        return engine

    options = {"max_new_tokens": 2, **({"task": "summarize"} if summarize else {})}
    found = answer_all(ask, rows, language, **options)
    assert [answer.text for answer in found] == rows
    for answer in found:
        assert answer.error is None or answer.error.code in ("E301", "E502", "E503", "E504", "E509", "E510", "E511")
        assert isinstance(answer.output, str)
        json.loads(as_row(answer, {}).encode("utf-8", "backslashreplace"))


@cases(100)
@given(texts, texts, st.sampled_from(["generate", "chat", "rank", "stream", "embed", "bare"]))
def test_the_other_doors_of_the_engine(engine: Engine, text: str, other: str, door: str) -> None:
    short = {"max_new_tokens": 2}
    doors = {
        "generate": lambda: engine.generate([text, other], "km", instruction=other, **short),
        "chat": lambda: engine.chat([{"role": "user", "content": [other, Foreign(text, "km"), text]}], **short),
        "rank": lambda: engine.rank(text, [other, "Rice"], "km"),
        "stream": lambda: "".join(engine.stream(text, "km", **short)),
        "embed": lambda: engine.embed([text, other], "km"),
        "bare": lambda: engine.generate([text, other], None, **short),
    }
    at_the_door(doors[door])
