"""Languages and scripts by their ISO codes: what CLDR and Unicode say, and codes that are none."""

from __future__ import annotations

import pytest

from llink.errors import LlinkError
from llink.interfaces import Language
from llink.language.iso import lookup, script
from llink.language.text import script_counts
from llink.plugins import languages


@pytest.mark.parametrize("code", ["am", "km", "my"])
def test_the_standards_agree_with_the_languages_that_are_here(code: str) -> None:
    known, found = languages()[code], lookup(code)
    assert (found.code, found.code3, found.name, found.scripts) == (known.code, known.code3, known.name, known.scripts)
    assert set(known.sentence_ends) <= set(found.sentence_ends)
    if known.digits != Language.digits:
        assert found.digits == known.digits


@pytest.mark.parametrize("code", ["lo", "LO", "lao", "Lao", " lo ", "lo-LA", "lo_LA"])
def test_one_language_by_all_its_names(code: str) -> None:
    found = lookup(code)
    assert (found.code, found.code3, found.name, found.endonym) == ("lo", "lao", "Lao", "ລາວ")
    assert (found.scripts, found.direction, found.digits) == (("LAO",), "ltr", "໐໑໒໓໔໕໖໗໘໙")


@pytest.mark.parametrize(
    ("code", "scripts", "direction"),
    [
        ("he", ("HEBREW",), "rtl"),
        ("ur", ("ARABIC",), "rtl"),
        ("nqo", ("NKO",), "rtl"),
        ("ff-Adlm", ("ADLAM",), "rtl"),
        ("lo-Latn", ("LATIN",), "ltr"),
        ("iu", ("CANADIAN",), "ltr"),
        ("ja", ("HIRAGANA", "KATAKANA", "CJK"), "ltr"),
        ("ko", ("HANGUL", "CJK"), "ltr"),
        ("zh", ("CJK",), "ltr"),
        ("mni-Mtei", ("MEETEI",), "ltr"),
        ("npi", ("DEVANAGARI",), "ltr"),  # known through its macrolanguage
        ("tlh", (), "ltr"),  # known to nobody
    ],
)
def test_scripts(code: str, scripts: tuple[str, ...], direction: str) -> None:
    found = lookup(code)
    assert (found.scripts, found.direction) == (scripts, direction)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Laoo", "ສະບາຍດີ"),
        ("Olck", "ᱥᱟᱱᱛᱟᱲᱤ"),
        ("Cans", "ᐃᓄᒃᑎᑐᑦ"),
        ("Latn", "Kreyòl Ayisyen"),
        ("Cyrl", "Қазақ тілі"),
        ("Hani", "中文"),
        ("Arab", "پښتو"),
        ("Tibt", "བོད་སྐད་"),
    ],
)
def test_script_names_are_those_that_text_is_counted_by(name: str, text: str) -> None:
    assert set(script_counts(text)) == set(script(name).names)


@pytest.mark.parametrize(
    ("code", "code3"), [("tl", "tgl"), ("tgl", "tgl"), ("ger", "deu"), ("iw", "heb"), ("bur", "mya")]
)
def test_old_and_bibliographic_codes(code: str, code3: str) -> None:
    assert lookup(code).code3 == code3
    assert len(lookup(code).code) == 2


def test_digits_and_sentence_ends_are_the_scripts_own() -> None:
    assert lookup("bn").digits == "০১২৩৪৫৬৭৮৯"
    assert lookup("ht").digits == "0123456789"
    assert set("।॥.!?") == set(lookup("ne").sentence_ends)
    assert {"؟", "۔"} <= set(lookup("ur").sentence_ends)
    assert {"。", "！", "？"} <= set(lookup("ja").sentence_ends)
    assert script("Arab").digits == ("٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹")


@pytest.mark.parametrize("name", ["Laoo", "lao", "LAO", " Laoo "])
def test_a_script_by_code_and_name(name: str) -> None:
    assert script(name).names == ("LAO",)


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("xx", "E220", "ISO 639"),
        ("", "E220", "ISO 639"),
        ("Laos", "E220", r"Did you mean Lao \(lo\)"),
        ("Burmease", "E220", r"Did you mean Burmese \(my\)"),
        ("../lo", "E220", "ISO 639"),
        ("qaa", "E220", "Unknown language"),
        ("mul", "E220", "no single language"),
        ("map", "E220", "no single language: Austronesian languages"),
        ("en", "E220", "English"),
        ("eng", "E220", "English"),
        ("lo-Xxxx", "E224", "Unknown script 'Xxxx'"),
        ("lo-Zyyy", "E224", "Unknown script 'Zyyy'"),
    ],
)
def test_what_is_no_language(code: str, error: str, says: str) -> None:
    with pytest.raises(LlinkError, match=says) as caught:
        lookup(code)
    assert caught.value.code == error


@pytest.mark.parametrize("name", ["", "Foo]", r"Lao}\p{L", "Zinh", "^"])
def test_what_is_no_script(name: str) -> None:
    with pytest.raises(LlinkError) as caught:
        script(name)
    assert caught.value.code == "E224"


def test_a_misspelt_script_is_guessed() -> None:
    with pytest.raises(LlinkError, match="Did you mean 'Deva'"):
        script("Devanagri")
