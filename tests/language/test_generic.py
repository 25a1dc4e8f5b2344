"""Languages without a plugin: what ISO 639, CLDR and Unicode say of any code and any script."""

from __future__ import annotations

import unicodedata

import pytest

from llink import LlinkError
from llink.language.generic import generic_language
from llink.language.script import check_script, detect
from llink.language.text import script_counts
from llink.language.unicode import having


@pytest.mark.parametrize(
    ("code", "script", "found"),
    [
        ("fa", "", ("fa", "fas", "Persian", ("ARABIC",), "۰۱۲۳۴۵۶۷۸۹")),
        ("fa", "ARABIC", ("fa", "fas", "Persian", ("ARABIC",), "۰۱۲۳۴۵۶۷۸۹")),
        ("zho", "CJK", ("zh", "zho", "Chinese", ("CJK",), "0123456789")),
        ("ja", "CJK", ("ja", "jpn", "Japanese", ("HIRAGANA", "KATAKANA", "CJK"), "0123456789")),
        ("sr", "Latn", ("sr", "srp", "Serbian", ("LATIN",), "0123456789")),
        ("hi", "Deva", ("hi", "hin", "Hindi", ("DEVANAGARI",), "०१२३४५६७८९")),
        (None, "MEETEI", ("und", "und", "Language in Meetei script", ("MEETEI",), "꯰꯱꯲꯳꯴꯵꯶꯷꯸꯹")),
        (None, "CANADIAN", ("und", "und", "Language in Canadian script", ("CANADIAN",), "0123456789")),
        (None, "", ("und", "und", "Undetermined language", (), "0123456789")),
    ],
)
def test_what_it_is(code: str | None, script: str, found: tuple[str, ...]) -> None:
    made = generic_language(code, script)
    assert (made.code, made.code3, made.name, made.scripts, made.digits) == found


@pytest.mark.parametrize(
    ("code", "script", "error"),
    [("xx", "", "E220"), ("en", "Latn", "E220"), ("fa", "Klingon", "E224"), (None, "^", "E224")],
)
def test_what_it_cannot_be(code: str | None, script: str, error: str) -> None:
    with pytest.raises(LlinkError) as caught:
        generic_language(code, script)
    assert caught.value.code == error


@pytest.mark.parametrize(
    ("script", "sentences"),
    [
        ("Deva", ["यह एक नदी है।", "वह बड़ी है॥", "क्या?"]),
        ("Arab", ["كيف حالك؟", "أنا بخير.", "شكرا"]),
        ("Arab", ["آپ کیسے ہیں؟", "میں ٹھیک ہوں۔", "شکریہ!"]),
        ("Hani", ["你好吗？", "我很好。", "他说：“走吧！”", "（再见。）"]),
        ("Jpan", ["「元気ですか。」", "はい、3.5です！", "また"]),
        ("Jpan", ["３．５です．", "次です．"]),
        ("Armn", ["Բարև։", "Ինչպե՞ս ես։", "Լավ։"]),
        ("Khmr", ["ខ្ញុំឈឺ។", "អរគុណ៕"]),
        ("Ethi", ["ሰላም።", "እንዴት ነህ፧", "ደህና"]),
        ("Grek", ["Τι κάνεις;", "Καλά.", "Εσύ;"]),
        ("Grek", ["Τι κάνεις\u037e", "Καλά."]),
        ("Mymr", ["ဟုတ်တယ်။", "ကောင်းပါတယ်။"]),
        ("Olck", ["ᱥᱟᱱᱛᱟᱲᱤ᱾", "ᱥᱟᱱᱛᱟᱲᱤ᱿"]),
        ("Cyrl", ["Так!?", "Ні… 3.5 llink.text!", "Добре‼️", "Так"]),
    ],
)
def test_sentences(script: str, sentences: list[str]) -> None:
    language = generic_language(None, script)
    spaced = script not in ("Hani", "Jpan", "Khmr")
    assert language.sentences(" ".join(sentences)) == sentences
    if not spaced:
        assert language.sentences("".join(sentences)) == sentences


def test_a_semicolon_asks_in_greek_alone() -> None:
    assert generic_language("fr").sentences("Un; deux.") == ["Un; deux."]
    assert generic_language("el").normalise("Τι\u037e") == "Τι;"


def test_every_decimal_digit_is_a_digit() -> None:
    language = generic_language(None, "Latn")
    every = having(r"\p{Nd}")
    assert len(every) >= 660
    known = {digit: unicodedata.decimal(digit, None) for digit in every}  # Python's Unicode is older
    assert [language.ascii_digits(d) for d, n in known.items() if n is not None] == [
        str(n) for n in known.values() if n is not None
    ]
    assert set(language.ascii_digits(every)) == set("0123456789")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("Sinh", "ශ්\u200dරී ලංකාව"),
        ("Arab", "می\u200cخواهم کتاب\u200cها و کار\u200cآموز"),
        ("Mlym", "അവന്\u200d പറഞ്ഞു"),
        ("Beng", "র\u200d্যাম"),
        ("Telu", "సాఫ్ట్\u200cవేర్"),
        ("Latn", "👩\u200d💻 and ❤️\u200d🔥 and 👩🏽\u200d🚀 and 🏳️\u200d🌈"),
        ("Latn", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"),
        ("Mong", "ᠬᠠᠷ\u180eᠠ"),
    ],
)
def test_joiners_that_are_read_stay(script: str, text: str) -> None:
    assert generic_language(None, script).normalise(text) == text


def test_joiners_that_are_not_read_go() -> None:
    assert generic_language(None, "Latn").normalise("a\u200db\u200c c\u200d") == "ab c"
    assert generic_language("fa").normalise("می\u200c\u200c\u200bخواهم\u200f") == "می\u200cخواهم"


@pytest.mark.parametrize("word", ["CJK", "CANADIAN", "OL", "PHAGS-PA", "ARABIC", "LATIN", "TAI", "HANGUL"])
def test_a_script_as_its_letters_are_named(word: str) -> None:
    [letter, *_] = [c for c in having(r"\p{L}") if unicodedata.name(c, "").startswith(f"{word} ")]
    language = generic_language(None, word)
    assert language.scripts == (word,)
    assert set(script_counts(letter)) == {word}
    check_script(letter, language)
    assert detect(letter, {"und": language}) is language


def test_values() -> None:
    assert generic_language("fa").verbatim("۱۲ کیلو و ٣٠ MW") == ["12", "30 MW"]
