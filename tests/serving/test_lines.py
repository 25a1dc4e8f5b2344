"""Texts that go wrong line by line, each test named after its case: what passes through, what is split, what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from llink import Engine, Foreign, LlinkError, plugins
from llink.language.unread import ADDRESS, BLANK, LATIN, NO_LETTERS, unread, with_marks
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]
SHORT = {"max_new_tokens": 6}
TWO = "គាត់បាត់ខ្លួន។ មនុស្សទាំងអស់កំពុងស្វែងរកគាត់។"
THREE = "វាក្តៅណាស់! តើអ្នកចង់ផឹកទឹកទេ? ខ្ញុំមានទឹកត្រជាក់។"


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapter: Path) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapter)
    return engine


def alone(engine: Engine, sentences: Sequence[str]) -> list[str]:
    return [engine.generate(sentence, "km", **SHORT) for sentence in sentences]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", BLANK),
        (" \u00a0\t", BLANK),
        ("\u200b", BLANK),
        ("\ufeff\u200d\u3164", BLANK),
        ("\ud800", BLANK),
        ("Dear Sir,", LATIN),
        ("Größe: 5 µm", LATIN),
        ("{name} %1$s", LATIN),
        ("2024-05-01", NO_LETTERS),
        ("— — —", NO_LETTERS),
        ("...", NO_LETTERS),
        ("012 345 678", NO_LETTERS),
        ("👍", NO_LETTERS),
        ("👨‍👩‍👧 🇰🇭 ☎️ 1️⃣", NO_LETTERS),
        ("https://example.org", ADDRESS),
        ("https://km.wikipedia.org/wiki/ភ្នំពេញ", ADDRESS),
        ("someone@example.org", ADDRESS),
    ],
)
def test_what_needs_no_reading(text: str, note: str) -> None:
    found = unread(text, [spoken for code, spoken in plugins.languages().items() if code != "mul"])
    assert found is not None
    assert (found.output, found.note) == (text, note)


@pytest.mark.parametrize(
    "text", ["សូមអរគុណ។", "Dear លោក,", "https://example.org សូម", "https://example.orgសូម", "Привет", "5 ម"]
)
def test_what_is_read(text: str) -> None:
    assert unread(text, plugins.languages().values()) is None


def test_digits_of_another_script_are_written_in_english() -> None:
    for text in ("០១/០៥/២០២៤", "၀၁/၀၅/၂၀၂၄", "۰۱/۰۵/۲۰۲۴"):
        assert unread(text, ()) == unread("01/05/2024", ())


def test_a_language_in_latin_letters_is_read() -> None:
    class Malay(type(plugins.language("km"))):  # type: ignore[misc]
        def likelihood(self, text: str) -> float:
            return float("saya" in text)

    malay = Malay("ms", "msa", "Malay", ("LATIN",), "x")
    assert unread("saya lapar", [malay]) is None
    assert unread("Dear Sir,", [malay]) == unread("Dear Sir,", ())


@pytest.mark.parametrize("language", ["km", "auto"])
@pytest.mark.parametrize("text", ["...", "123", "👍", "2024-05-01", "— — —"])
def test_dots_digits_and_one_emoji_from_python(engine: Engine, text: str, language: str) -> None:
    assert engine.generate(text, language, **SHORT) == text
    assert "".join(engine.stream(text, language, **SHORT)) == text
    assert engine.generate([KHMER[0], text], language, **SHORT) == [*alone(engine, KHMER[:1]), text]
    with pytest.raises(LlinkError, match=r"\[E501\]"):
        engine.generate(text, language, task="translat")
    with pytest.raises(LlinkError, match=r"\[E201\]"):
        engine.generate(text, "kmm")
    assert isinstance(engine.generate(text, None, **SHORT), str)  # the bare decoder is asked what the user asks it


def test_two_and_three_short_sentences_on_a_line(engine: Engine) -> None:
    khmer = plugins.language("km")
    for text, count in ((TWO, 2), (THREE, 3)):
        parts = khmer.sentences(text)
        assert len(parts) == count
        answer = " ".join(alone(engine, parts))
        assert engine.generate(text, "km", **SHORT) == answer
        assert "".join(engine.stream(text, "km", **SHORT)) == answer
    together = engine.generate([TWO, KHMER[0], THREE], **SHORT)
    assert together == [engine.generate(text, **SHORT) for text in (TWO, KHMER[0], THREE)]


def test_other_tasks_read_a_short_text_whole(engine: Engine) -> None:
    [piece] = engine.reader.pieces(THREE, engine.resident("km"))
    assert piece.text == plugins.language("km").normalise(THREE)


def test_what_needs_no_reading_within_a_text_stays_in_its_place(engine: Engine) -> None:
    [first, second] = alone(engine, KHMER[:2])
    text = f"{KHMER[0]} 👍\n{KHMER[1]}\nhttps://example.org\nDear Sir,"
    assert engine.generate(text, "km", **SHORT) == f"{first} 👍 {second} https://example.org Dear Sir,"
    assert "".join(engine.stream(text, "km", **SHORT)) == engine.generate(text, "km", **SHORT)
    long = "— " * 900
    assert engine.generate(f"{KHMER[0]}\n{long}", "km", **SHORT) == f"{first} {long.strip()}"


def test_a_mark_that_stands_alone_goes_with_its_sentence(engine: Engine) -> None:
    assert with_marks(["«", "a", "b", "»", "..."]) == ["« a", "b » ..."]
    assert engine.generate(f"{KHMER[0]} »", "km", **SHORT).count("»") == 0


def test_lone_surrogates(engine: Engine) -> None:
    half = "\ud83d"
    assert engine.generate(KHMER[0], "km", instruction=f"What is it?{half}", **SHORT)
    assert engine.generate(f"Hello{half}", None, **SHORT) == engine.generate("Hello\ufffd", None, **SHORT)
    assert engine.generate("Hello\ud83d\udc4d", None, **SHORT) == engine.generate("Hello👍", None, **SHORT)
    content = [f"What is it?{half}", Foreign(f"{KHMER[0]}{half}", "km"), half]
    assert isinstance(engine.chat([{"role": "user", "content": content}], **SHORT), str)
    assert len(engine.rank(f"{KHMER[0]}{half}", [f"Rice{half}", "Market"], "km")) == 2


def test_timeout_without_end(engine: Engine) -> None:
    for timeout in (math.inf, 1e300):
        assert engine.generate(KHMER[0], "km", timeout=timeout, **SHORT) == engine.generate(KHMER[0], "km", **SHORT)
    with pytest.raises(LlinkError, match=r"\[E518\] timeout"):
        engine.generate(KHMER[0], "km", timeout=math.nan)


def test_rank_of_blank_candidates(engine: Engine) -> None:
    with pytest.raises(LlinkError, match=r"\[E510\] Texts are empty: 0, 2, 3"):
        engine.rank(KHMER[0], ["", "Rice", " ", "\u200b"], "km")
