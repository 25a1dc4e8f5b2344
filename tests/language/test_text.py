"""Text rules shared by all languages."""

from __future__ import annotations

import time
import unicodedata

import pytest

from llink.language.text import normalise, script_counts, split_sentences


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        (" \t\r\n ", ""),
        ("a\u00a0 b\u3000c", "a b c"),
        ("a\u2028b\x00c\x1b[0m", "a b c [0m"),
        ("e\u0301", "é"),
        ("ក\u200bខ\ufeffគ\u00adឃ\u2060ង", "កខគឃង"),
        ("a\u200eb\u202ec", "abc"),  # direction marks
        ("tag\U000e0041\U000e0042", "tag"),  # invisible tag characters
        ("a\ud800b", "a b"),  # a lone surrogate cannot be encoded
        ("👍 ok ០៥", "👍 ok ០៥"),
    ],
)
def test_normalise(text: str, clean: str) -> None:
    assert normalise(text) == clean


def test_normalise_is_idempotent() -> None:
    # The joiner stands between a letter and its accent: removing it must come before composing.
    for text in ("e\u200d\u0301", "\u1100\u200b\u1161", "a \u200b b", "x\u0000\u0301", "ក\u200b ខ", "\u200b"):
        once = normalise(text)
        assert normalise(once) == once
        assert unicodedata.is_normalized("NFC", once)


def test_normalise_of_a_large_text_is_quick() -> None:
    start = time.perf_counter()
    normalise("ខ្ញុំ\u200b ឈឺ។" * 100_000)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("text", "ends", "sentences"),
    [
        ("", ".!?", []),
        (" \n \n", ".!?", []),
        ("no end", ".!?", ["no end"]),
        ("One. Two! Three?", ".!?", ["One.", "Two!", "Three?"]),
        ("One\n\nTwo", ".!?", ["One", "Two"]),
        ("Pi is 3.14. See llink.text or a?b=c!d now.", ".!?", ["Pi is 3.14.", "See llink.text or a?b=c!d now."]),
        ("Wait... what?! Yes.", ".!?", ["Wait...", "what?!", "Yes."]),
        ("What ? ! Yes.", ".!?", ["What ? !", "Yes."]),
        ('He said "Go!" (Really?) Then he left.', ".!?", ['He said "Go!"', "(Really?)", "Then he left."]),
        ("The U.S.’s “end.” Yes.", ".!?", ["The U.S.’s “end.”", "Yes."]),
        ("ក។ខ។ «គ។» ឃ", "។!?", ["ក។", "ខ។", "«គ។»", "ឃ"]),
        ("ក?ខ 3.5 គ!ឃ", "។!?.", ["ក?", "ខ 3.5 គ!", "ឃ"]),
        ("ក។1. ខ", "។", ["ក។", "1. ខ"]),
        ("a. b", "", ["a. b"]),
        ("a] b^c-d", "]^-", ["a]", "b^c-d"]),  # characters that mean something inside a regex class
    ],
)
def test_split_sentences(text: str, ends: str, sentences: list[str]) -> None:
    assert split_sentences(text, ends) == sentences


def test_split_sentences_keeps_every_character() -> None:
    text = 'One! "Two?" ក។ខ។ ... ?! 3.5 (end.) [x!] no end'
    assert "".join("".join(split_sentences(text, ".!?។")).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["។ " * 300_000, "a" * 1_000_000, "!" + " " * 1_000_000 + "x", "a? b. " * 150_000])
def test_split_sentences_of_a_large_text_is_quick(text: str) -> None:
    start = time.perf_counter()
    split_sentences(text, "។.!?")
    assert time.perf_counter() - start < 10


def test_script_counts() -> None:
    assert script_counts("ខ្ញុំ") == {"KHMER": 5}  # marks are Khmer too
    assert script_counts("ក abc 12 ០១ ?!") == {"KHMER": 1, "LATIN": 3}
    assert script_counts("አማርኛ မြန်မာ")["ETHIOPIC"] == 4
    assert script_counts("❤️ 5 👍🏽 e\u0301 xʰ") == {"LATIN": 2}  # emoji selectors, accents and modifiers are no script
    assert not script_counts("")
